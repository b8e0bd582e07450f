"""Structured logs: one line an event on standard error, human-readable on a terminal, logfmt elsewhere."""

import logging
import sys

import structlog


def configure(level: str) -> None:
    """Set up structlog, and the standard library's loggers through it. Call once, at start."""
    number = logging.getLevelNamesMapping()[level.upper()]
    terminal = sys.stderr.isatty()
    renderer = (
        structlog.dev.ConsoleRenderer(colors=terminal, pad_event_to=0)
        if terminal
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if not terminal:
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
    for noisy in ("asyncio", "psycopg", "uvicorn", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(max(number, logging.WARNING))


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Answer the logger of a room, such as `zorya.gateway`."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
