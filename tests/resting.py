"""What an engine does that does nothing: tests say with `dataclasses.replace` what is different."""

from zorya.engines.base import Activity

RESTING = Activity(
    clients=frozenset(),
    helpers=frozenset(),
    busy="",
    mark="",
    idle_s=None,
    at_work=0,
    waiting=0,
    blocks_hit=0,
    blocks_read=0,
    own_work=0,
    log_flushed=True,
)
