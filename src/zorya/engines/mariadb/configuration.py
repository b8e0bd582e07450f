"""What Zorya tells MariaDB: the settings, what follows the capacity, and the init file. Pure.

The files stand outside the data folder, are Zorya's own and are written anew before each start. Ports, the data folder
and the installation's folder are given on the command line.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zorya.core.capacity import Acu, Bounds
from zorya.engines.mariadb import sizes

SETTINGS_FILE = "my.cnf"
CAPACITY_FILE = "capacity.cnf"
INIT_FILE = "init.sql"
CERTIFICATE_FILE = "server.crt"
KEY_FILE = "server.key"
ROOT_FILE = "root.crt"
PLUGIN_FOLDER = "plugins"
SOCKET = "mariadb.sock"
PID_FILE = "mariadb.pid"
BINLOG = "binlog"
BINLOG_INDEX = f"{BINLOG}.index"

RELAY_ADDRESS = "127.90.79.82"
"""Where Zorya's relay connects from: from there, and only from there, a connection may begin with a PROXY protocol
header that names the client's true address (Knowledge Base, "Proxy Protocol Support")."""

PLUGINS = ("metadata_lock_info", "auth_ed25519")
"""What is loaded of the plugins that an installation brings: who holds locks, and accounts with Ed25519 keys.

No other can be: the server looks for plugins in a folder that has these alone.
"""

_TLS_VERSIONS = {"1.0": "TLSv1.0", "1.1": "TLSv1.1", "1.2": "TLSv1.2", "1.3": "TLSv1.3"}
_SIGNED_WITH_SHA1 = frozenset({"1.0", "1.1"})
"""The versions whose handshakes are signed with nothing better, which OpenSSL 3 does only when it is told to."""

_MIB = 1024**2
_HEADER = "# Written by Zorya before each start; changes made here are lost.\n[mariadbd]\n"
_CAPACITY_HEADER = "# Written by Zorya whenever the capacity changes; changes made here are lost.\n[mariadbd]\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where a cluster's server has what."""

    data: Path
    conf: Path
    socket: Path
    """The Unix socket's folder."""
    temporary: Path
    """Temporary files; the engine's own."""
    exchange: Path
    """The only folder whose files SQL may read and write; nobody has the right to."""


def render_settings(
    places: Places,
    *,
    bounds: Bounds,
    acu: Acu,
    login_timeout_s: float,
    tls_min_version: str | None,
    requires_tls: bool,
    plugins: Sequence[str] | None,
) -> str:
    """Answer the settings file, which includes `render_capacity`'s.

    `login_timeout_s` is how long a client may take to log in. `tls_min_version` is the oldest version of TLS that is
    spoken, such as "1.2"; None turns TLS off. `plugins` are those that are there of PLUGINS; None where the
    installation's folder of plugins is not known.
    """
    at_start = sizes.at_start(bounds, acu)
    settings: Mapping[str, str | int] = {
        "socket": quote(places.socket / SOCKET),
        "pid_file": quote(places.data / PID_FILE),
        "tmpdir": quote(places.temporary),
        "secure_file_priv": quote(places.exchange),
        "init_file": quote(places.conf / INIT_FILE),
        "bind_address": "127.0.0.1",
        # Accounts are for addresses: a name server must not be able to keep clients waiting, or say who they are.
        "skip_name_resolve": "ON",
        "proxy_protocol_networks": RELAY_ADDRESS,
        # Of the range from 2 s on.
        "connect_timeout": max(math.ceil(login_timeout_s), 2),
        # A session has a thread of its own, which comes and goes with it: that is how sessions are seen.
        "thread_handling": "one-thread-per-connection",
        "thread_cache_size": 0,
        "max_allowed_packet": 64 * _MIB,
        "local_infile": "ON",
        "character_set_server": "utf8mb4",
        "default_storage_engine": "InnoDB",
        "default_time_zone": quote("+00:00"),
        "lower_case_table_names": 0,
        # DATA DIRECTORY would put tables anywhere.
        "skip_symbolic_links": "ON",
        # It takes memory and time at the start.
        "performance_schema": "OFF",
        "event_scheduler": "OFF",
        **_tls(places.conf, tls_min_version),
        "require_secure_transport": "ON" if requires_tls else "OFF",
        "server_id": 1,
        "log_bin": quote(places.data / BINLOG),
        "binlog_format": "ROW",
        # With row format nothing that a function does is written otherwise than it was done.
        "log_bin_trust_function_creators": "ON",
        "sync_binlog": 1,
        "max_binlog_size": 64 * _MIB,
        "binlog_expire_logs_seconds": 3600,
        "innodb_flush_log_at_trx_commit": 1,
        # A frozen server's clock goes on: what waits for as long is taken for a defect, and ends the server.
        "innodb_fatal_semaphore_wait_threshold": 2**31,
        "table_open_cache_instances": 1,
        "log_warnings": 2,
        **at_start,
        "extra_max_connections": at_start["max_connections"],
        **_plugins(places.conf, plugins),
    }
    return f"{_HEADER}{_lines(settings)}!include {places.conf / CAPACITY_FILE}\n"


def render_capacity(capacity: float, bounds: Bounds, acu: Acu) -> str:
    """Answer the file of the settings that follow the capacity, which is in ACUs."""
    return _CAPACITY_HEADER + _lines(sizes.following(capacity, bounds, acu))


def render_init(statements: Sequence[str]) -> str:
    """Answer the init file: one statement a line."""
    return "".join(f"{statement};\n" for statement in statements)


def parse(text: str) -> dict[str, str]:
    """Answer the settings that a file has that was rendered here, in their order, as they stand there."""
    pairs = (line.split(" = ", 1) for line in text.splitlines() if not line.startswith(("#", "[", "!")))
    return {name: value for name, value in pairs}  # noqa: C416 - each pair is a list


def quote(value: str | Path) -> str:
    """Answer a text as an option file has it (Knowledge Base, "Configuring MariaDB with Option Files", Escapes)."""
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def environment(tls_min_version: str | None) -> Mapping[str, str]:
    """Answer what the server's environment has to hold besides."""
    # The log's times, and what SYSTEM is as a time zone.
    zone = {"TZ": "UTC"}
    # Red Hat's OpenSSL asks for this besides; others do not know it.
    return zone | ({"OPENSSL_ENABLE_SHA1_SIGNATURES": "1"} if tls_min_version in _SIGNED_WITH_SHA1 else {})


def _plugins(conf: Path, plugins: Sequence[str] | None) -> dict[str, str]:
    if plugins is None:
        return {}
    settings = {"plugin_dir": quote(conf / PLUGIN_FOLDER)}
    if plugins:
        settings["plugin_load_add"] = quote(";".join(plugins))
    return settings


def _tls(conf: Path, min_version: str | None) -> dict[str, str]:
    if min_version is None:
        return {"ssl": "OFF"}
    offered = [name for version, name in _TLS_VERSIONS.items() if version >= min_version]
    settings = {
        "ssl_cert": quote(conf / CERTIFICATE_FILE),
        "ssl_key": quote(conf / KEY_FILE),
        "ssl_ca": quote(conf / ROOT_FILE),
        "tls_version": ",".join(offered),
    }
    if min_version in _SIGNED_WITH_SHA1:
        # SSL_CTX_set_security_level(3): SHA-1 is below every level but this.
        settings["ssl_cipher"] = quote("DEFAULT:@SECLEVEL=0")
    return settings


def _lines(settings: Mapping[str, str | int]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in settings.items())
