"""What the operator can set: environment over `zorya.toml` in the home over the defaults. Unknown names are refused.

Every setting NAME is `ZORYA_NAME` (upper case) in the environment and `name` in the file.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from zorya.core import errors
from zorya.core.capacity import Acu
from zorya.core.volume import ZONES

ENV_PREFIX = "ZORYA_"
FILE_NAME = "zorya.toml"
SHORTEST_DELAY_S = 0.01
NOT_SETTINGS = frozenset({"ZORYA_HOME", "ZORYA_FAILPOINTS", "ZORYA_FAILPOINT_RELEASE"})


def parse_delay(value: object) -> int | None:
    """Read a delay: whole seconds of at least 1, or `never` (None)."""
    if value is None or value == "never":
        return None
    try:
        seconds = int(str(value))
    except ValueError:
        seconds = 0
    if seconds < 1:
        raise ValueError("must be a whole number of seconds, at least 1, or 'never'")
    return seconds


def parse_short_delay(value: object) -> float | None:
    """Read a delay: seconds of at least SHORTEST_DELAY_S, with a fraction or without, or `never` (None)."""
    if value is None or value == "never":
        return None
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = 0
    if not SHORTEST_DELAY_S <= seconds < float("inf"):
        raise ValueError(f"must be seconds, at least {SHORTEST_DELAY_S}, or 'never'")
    return seconds


def _check_port_range(text: str) -> str:
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    if not found or not 1024 <= int(found[1]) <= int(found[2]) <= 65535:
        raise ValueError("must be FIRST-LAST, both from 1024 to 65535, such as 7400-7999")
    return text


def _number_or_never(value: object) -> object:
    return None if value == "never" else value


def _whole_number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _split_addresses(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def parse_zone_dirs(value: object) -> object:
    """Read the folders of zones: a=FOLDER,b=FOLDER,c=FOLDER, all absolute; some may be left out."""
    if not value:
        return {}
    if isinstance(value, Mapping):
        value = ",".join(f"{zone}={folder}" for zone, folder in value.items())
    if not isinstance(value, str):
        return value
    found = dict(part.strip().partition("=")[::2] for part in value.split(","))
    if set(found) - set(ZONES) or not all(folder.startswith("/") for folder in found.values()):
        raise ValueError("must be a=FOLDER,b=FOLDER,c=FOLDER with absolute folders")
    return found


class Settings(BaseSettings):
    """Everything that can be set. Passed to what needs it; there is no global instance."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)

    bind: Annotated[list[str], NoDecode, BeforeValidator(_split_addresses)] = Field(
        default=["127.0.0.1"],
        min_length=1,
        description="Addresses on which clusters' endpoints listen, separated by commas. "
        "`0.0.0.0` is every IPv4 address.",
    )
    port_range: Annotated[str, AfterValidator(_check_port_range)] = Field(
        default="7400-7999", description="Ports from which a new cluster gets its own, FIRST-LAST."
    )
    api_port: int = Field(
        default=7399,
        ge=0,
        le=65535,
        description="TCP port of the REST API; 0 takes any free one. If it is taken, any free one is used.",
    )
    api_bind: str = Field(
        default="127.0.0.1",
        description="Address on which the REST API listens. One that is not loopback is served over TLS alone.",
    )
    pause_after: Annotated[int | None, BeforeValidator(parse_delay)] = Field(
        default=300,
        description="Seconds without a client session after which a new cluster pauses, at least 1, or `never`. "
        "A cluster's own value is chosen at its creation.",
    )
    freeze_after: Annotated[float | None, BeforeValidator(parse_short_delay)] = Field(
        default=10,
        description="Seconds of quiet after which a new cluster freezes, at least 0.01, or `never`. "
        "A cluster's own value is chosen at its creation.",
    )
    freezer: Literal["auto", "cgroup2", "cgroup1", "signals"] = Field(
        default="auto",
        description="How engines are frozen: by the freezer of control groups of version 2 or 1, or by SIGSTOP. "
        "`auto` takes the first of these that this host has.",
    )
    reclaim_after_s: float = Field(
        default=60,
        gt=0,
        description="How long a cluster is frozen before its page cache and idle memory are given back to the host, "
        "where the host can do that.",
    )
    acu_memory_mib: int = Field(default=2048, ge=64, description="Memory of one ACU, the unit of capacity, in MiB.")
    acu_cores: float = Field(default=0.25, gt=0, le=64, description="Cores of one ACU.")
    node_capacity: float | None = Field(
        default=None,
        ge=0.5,
        description="ACUs that all clusters together may have. By default what this host's memory and cores come to, "
        "or what its control groups leave of them.",
    )
    burst: bool = Field(
        default=True,
        description="Whether a cluster may use cores beyond its present capacity, up to its highest, while nobody else "
        "needs them.",
    )
    capacity_hold_s: float = Field(
        default=300,
        ge=0,
        description="How long a capacity that was set by hand stays before the load decides again.",
    )
    copies: Annotated[Literal[1, 3, 6], BeforeValidator(_whole_number)] = Field(
        default=6,
        description="How many copies a new cluster's volume has: 6, of which 4 have a commit before the client hears "
        "of it; 3, of which 2 have; or 1. A cluster's own number is chosen at its creation.",
    )
    zone_dirs: Annotated[dict[str, Path], NoDecode, BeforeValidator(parse_zone_dirs)] = Field(
        default={},
        description="The folders of the three zones for new copies, `a=FOLDER,b=FOLDER,c=FOLDER`; best on three disks. "
        "By default all are in the home. Copies that there are stay where they are.",
    )
    rebuild_max_mib_s: float | None = Field(
        default=None,
        gt=0,
        description="MiB a second that the making of a new copy may read and write, and that the check of its pages "
        "may read; by default any.",
    )
    log_keep_mib: int = Field(
        default=4096,
        ge=64,
        description="How much log is kept, in MiB, for a copy that has fallen behind or is gone. One that would need "
        "more is made anew. Of a MariaDB cluster's binary log no more is kept either, and none for more than an hour.",
    )
    log_retention_s: float = Field(
        default=0, ge=0, description="How long tail copies keep log that nothing needs any more, in seconds."
    )
    scrub_every_h: Annotated[float | None, BeforeValidator(_number_or_never)] = Field(
        default=168,
        gt=0,
        description="After how many hours the checksums of a stopped cluster's copies are checked again, or `never`.",
    )
    max_reader_lag_s: float = Field(
        default=10,
        gt=0,
        description="How old what the reader endpoint shows may be, in seconds: copies that are further behind serve "
        "nobody new.",
    )
    price_acu_hour: float = Field(default=0.12, ge=0, description="What an ACU costs an hour, for `zorya usage`.")
    price_gib_month: float = Field(
        default=0.10, ge=0, description="What a GiB of storage costs a month of 730 hours, for `zorya usage`."
    )
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$", description="The currency of the prices.")
    attach: Literal["handoff", "relay"] = Field(
        default="handoff",
        description="How clients reach their engine: `handoff` gives it the connection itself and relays only where "
        "that cannot be done; `relay` always carries the bytes through the server.",
    )
    keep_endpoints_s: float = Field(
        default=60,
        ge=0,
        description="How long endpoints go on accepting connections after the server has ended without stopping its "
        "engines: clients then wait for the next server. After it they are refused.",
    )
    wake_timeout_s: float = Field(
        default=30, gt=0, le=3600, description="How long a client waits for a starting engine before it gets an error."
    )
    startup_timeout_s: float = Field(
        default=10,
        gt=0,
        le=3600,
        description="How long a client may take to say who it is, to Zorya or to its engine, before it is cut off.",
    )
    stop_timeout_s: float = Field(
        default=60,
        gt=0,
        le=3600,
        description="How long an engine may take to stop cleanly before it is stopped by force "
        "(nothing is lost: it recovers at its next start).",
    )
    max_clients: int = Field(
        default=10000,
        ge=1,
        description="Clients at once, all clusters together, whether Zorya holds them or their engines do; "
        "more get an error.",
    )
    max_handshakes: int = Field(
        default=1024,
        ge=8,
        description="Clients at once that have not yet said who they are, all clusters together. When one more comes, "
        "the one that has taken longest is cut off, once it has taken 2 s.",
    )
    login_delay_max_s: float = Field(
        default=5,
        ge=0,
        le=60,
        description="The longest that a client is kept waiting because logins from its address, or to its role, have "
        "failed; 0 keeps nobody waiting.",
    )
    domain: str = Field(
        default="zorya.localhost",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,62})(\.[a-z0-9]([a-z0-9-]{0,62}))*$",
        description="Domain below which each cluster has its name, `CLUSTER.DOMAIN`: the server certificate is good "
        "for all of them, and the shared port knows a cluster by it.",
    )
    tls_cert_file: Path | None = Field(
        default=None,
        description="PEM file with the server certificate, and those that lead to its root, to use in place of "
        "Zorya's own; needs tls_key_file. Loaded again when it changes.",
    )
    tls_key_file: Path | None = Field(default=None, description="PEM file with the key of tls_cert_file, unencrypted.")
    tls_names: Annotated[list[str], NoDecode, BeforeValidator(_split_addresses)] = Field(
        default=[],
        description="More names and addresses for which the server certificate is to be good, separated by commas.",
    )
    tls_min_version: Literal["1.0", "1.1", "1.2", "1.3"] = Field(
        default="1.2",
        description="The oldest version of TLS that clients may use. 1.0 and 1.1 are broken and only for clients that "
        "cannot do better.",
    )
    shared_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="A port that serves all PostgreSQL clusters: the client says which one by the name it connects to "
        "(`CLUSTER.DOMAIN`, with TLS) or in its options. Usually 5432; 0 opens none.",
    )
    mysql_shared_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="The same for MariaDB clusters: the client says which one by the name it connects to, with TLS, or "
        "as a user written `USER@CLUSTER`. Usually 3306; 0 opens none.",
    )
    wake_unverified: Literal["wake", "refuse"] = Field(
        default="wake",
        description="What becomes of a client of a stopped MariaDB cluster whose account only the engine can verify "
        "(ed25519, unix_socket, pam, X509): the engine is started for it, or it is refused.",
    )
    postgres: Path | None = Field(
        default=None,
        description="A PostgreSQL installation to use before all others: the folder that holds `bin/postgres`.",
    )
    mariadb: Path | None = Field(
        default=None,
        description="A MariaDB installation to use before all others: the folder that holds `bin/mariadbd` or "
        "`sbin/mariadbd`.",
    )
    engine_user: str = Field(
        default="zorya",
        pattern=r"^[a-z_][a-z0-9_-]{0,30}$",
        description="System user that engines run as when Zorya runs as root; made if missing.",
    )
    engine_log_max_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=65536,
        description="Size at which an engine's log is rotated; one older file is kept.",
    )
    event_retention_days: int = Field(default=14, ge=1, description="How long events are kept.")
    log_level: Literal["debug", "info", "warning", "error"] | None = Field(
        default=None,
        description="What the server logs to standard error: debug, info, warning or error. "
        "By default info, or warning when that is a terminal, where `up` shows events anyway.",
    )

    @property
    def acu(self) -> Acu:
        """What one ACU is."""
        return Acu(memory_bytes=self.acu_memory_mib * 1024**2, cores=self.acu_cores)

    @property
    def ports(self) -> range:
        """The ports of `port_range`, both ends included."""
        first, last = self.port_range.split("-")
        return range(int(first), int(last) + 1)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is the library's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: given values, environment, file."""
        file = settings_cls.model_config.get("toml_file")
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, file if isinstance(file, Path) else None),
        )


def load(home: Path, **given: Any) -> Settings:
    """Read the settings of `home`; `given` values (from command-line options) win over all sources.

    Raises InvalidSetting that lists every mistake at once, with the name it was given under.
    """
    unknown = sorted(
        name
        for name in os.environ
        if name.startswith(ENV_PREFIX)
        and name not in NOT_SETTINGS
        and name.removeprefix(ENV_PREFIX).lower() not in Settings.model_fields
    )
    if unknown:
        raise errors.InvalidSetting(
            f"No such setting: {', '.join(unknown)}.", hint="docs/settings.md lists the settings there are."
        )
    path = home / FILE_NAME

    class _OfThisHome(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        return _OfThisHome(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {_plain(e['msg'])}" for e in error.errors())
        raise errors.InvalidSetting(
            f"The settings are not valid: {mistakes}.", hint=f"They come from ZORYA_* variables and {path}."
        ) from error
    except (OSError, ValueError) as error:
        raise errors.InvalidSetting(f"{path} cannot be read: {error}.", hint="It has to be a TOML file.") from error


def _plain(message: str) -> str:
    text = message.removeprefix("Value error, ")
    return "no such setting" if text.startswith("Extra inputs") else text[0].lower() + text[1:]
