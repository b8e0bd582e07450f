"""What Zorya tells PostgreSQL: two settings files, one access file, one identity map. Pure.

The files stand outside the data folder, are Zorya's own and are written anew before each start. The port and the data
folder are given on the command line, since they belong to one start. One of the settings files holds what follows the
cluster's capacity, and is written whenever that changes.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from zorya.core.capacity import Acu, Bounds
from zorya.core.volume import ZONES, CopyKind
from zorya.engines.following import Following
from zorya.engines.postgres import server_log, sizes

ADMIN = "zorya_admin"
"""The superuser that Zorya works as; it can connect over the Unix socket only, and only from Zorya's own user."""

REPLICA = "zorya_copies"
"""The role as which copies follow the primary: it may replicate, and read what a rewind needs to, and nothing else."""

CREATE_REPLICA = f"CREATE ROLE {REPLICA} LOGIN REPLICATION"
GRANT_REPLICA = (
    # What pg_rewind needs (manual, "pg_rewind", Notes).
    "GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean),"
    " pg_catalog.pg_stat_file(text, boolean), pg_catalog.pg_read_binary_file(text),"
    f" pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO {REPLICA}"
)

SETTINGS_FILE = "postgresql.conf"
CAPACITY_FILE = "capacity.conf"
ACCESS_FILE = "pg_hba.conf"
IDENTITY_FILE = "pg_ident.conf"
CERTIFICATE_FILE = "server.crt"
KEY_FILE = "server.key"

TLS_VERSIONS: Mapping[str, str] = {"1.0": "TLSv1", "1.1": "TLSv1.1", "1.2": "TLSv1.2", "1.3": "TLSv1.3"}
"""What PostgreSQL calls the versions that `TlsFiles.min_version` names."""

_SIGNED_WITH_SHA1 = frozenset({"1.0", "1.1"})
"""The versions whose handshakes are signed with nothing better, which OpenSSL 3 does only when it is told to."""

_HEADER = "# Written by Zorya before each start; changes made here are lost.\n"
_CAPACITY_HEADER = "# Written by Zorya whenever the capacity changes; changes made here are lost.\n"


def is_copy_name(name: str) -> bool:
    """Whether a replication slot of this name can be one of a copy."""
    zone, _, kind = name.partition("_")
    return zone in ZONES and kind in set(CopyKind)


def render_settings(
    *,
    cluster: str,
    conf: Path,
    sockets: Sequence[Path],
    bounds: Bounds,
    acu: Acu,
    login_timeout_s: float,
    tls_min_version: str | None,
    following: Following | None,
    at_least: Mapping[str, int],
) -> str:
    """Answer the settings file, which includes `render_capacity`'s. `sockets` are the folders of its Unix sockets.

    `login_timeout_s` is how long a client may take to log in.

    `tls_min_version` is the oldest version of TLS that is spoken, such as "1.2"; None turns TLS off.

    `at_least` are settings that may be more, but not less than this.
    """
    chosen = sizes.at_start(bounds, acu)
    settings: Mapping[str, str] = {
        "cluster_name": _quote(cluster),
        "listen_addresses": "'127.0.0.1'",
        "unix_socket_directories": _quote(", ".join(f'"{folder}"' for folder in sockets)),
        "unix_socket_permissions": "0700",
        "hba_file": _quote(str(conf / ACCESS_FILE)),
        "ident_file": _quote(str(conf / IDENTITY_FILE)),
        "password_encryption": "scram-sha-256",
        **_tls(conf, tls_min_version),
        **chosen,
        **{name: str(max(least, int(chosen[name]))) for name, least in at_least.items()},
        # Of PostgreSQL's range, 1 s to 10 min.
        "authentication_timeout": f"{min(max(math.ceil(login_timeout_s), 1), 600)}s",
        "dynamic_shared_memory_type": "posix",
        "log_destination": "stderr",
        "logging_collector": "off",
        "log_line_prefix": _quote(server_log.PREFIX),
        "log_timezone": "'UTC'",
        "timezone": "'UTC'",
        "datestyle": "'iso, mdy'",
        "lc_messages": "'C'",
        "default_text_search_config": "'pg_catalog.english'",
        **(_following(following) if following is not None else {}),
    }
    # A name that is no path is looked for beside the file that it stands in.
    return f"{_HEADER}{_lines(settings)}include_if_exists = '{CAPACITY_FILE}'\n"


def render_capacity(capacity: float, bounds: Bounds, acu: Acu) -> str:
    """Answer the file of the settings that follow the capacity, which is in ACUs."""
    return _CAPACITY_HEADER + _lines(sizes.following(capacity, bounds, acu))


def _following(following: Following) -> dict[str, str]:
    """Answer the settings of one of several copies.

    Each full copy has those of a primary, with its own others, so that they hold from the moment in which it becomes
    one. The time limits are off: a cluster may be frozen for hours, and Zorya itself watches the copies.
    """
    names = ", ".join(f'"{name}"' for name in following.counted)
    settings = {
        "wal_level": "replica",
        "hot_standby": "on",
        "max_wal_senders": "16",
        "max_replication_slots": "16",
        "synchronous_standby_names": _quote(f"ANY {following.needed} ({names})" if following.needed else ""),
        "synchronous_commit": "on",
        "wal_sender_timeout": "0",
        "wal_receiver_timeout": "0",
        "wal_receiver_status_interval": "1s",
        "wal_retrieve_retry_interval": "100ms",
        "max_slot_wal_keep_size": f"{following.keep_bytes // 1024**2}MB",
        # What another copy may lack still when this one becomes the primary, which has kept no log for it.
        "wal_keep_size": "128MB",
        # A copy that is gone would keep the primary from clearing away dead rows for as long as it is.
        "hot_standby_feedback": "off",
        "max_standby_streaming_delay": "30s",
        "recovery_target_timeline": "'latest'",
        "primary_slot_name": _quote(following.copy),
        "primary_conninfo": "''",
        "restore_command": "''",
    }
    if following.source is not None and not following.leads:
        source = following.source
        settings["primary_conninfo"] = _quote(
            f"host={_in_conninfo(str(source.socket))} port={source.port} user={REPLICA}"
            f" application_name={following.copy}"
        )
    if following.collected is not None:
        # A file that is not there is no failure: the log goes on elsewhere, or ends.
        settings["restore_command"] = _quote(f'cp "{str(following.collected).replace("%", "%%")}/%f" "%p" 2>/dev/null')
    return settings


def _in_conninfo(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _lines(settings: Mapping[str, str]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in settings.items())


def _tls(conf: Path, min_version: str | None) -> dict[str, str]:
    if min_version is None:
        return {"ssl": "off"}
    settings = {
        "ssl": "on",
        "ssl_cert_file": _quote(str(conf / CERTIFICATE_FILE)),
        "ssl_key_file": _quote(str(conf / KEY_FILE)),
        "ssl_min_protocol_version": _quote(TLS_VERSIONS[min_version]),
    }
    if min_version in _SIGNED_WITH_SHA1:
        # SSL_CTX_set_security_level(3): SHA-1 is below every level but this.
        settings["ssl_ciphers"] = "'DEFAULT:@SECLEVEL=0'"
    return settings


def tls_environment(min_version: str | None) -> Mapping[str, str]:
    """Answer what the engine's environment has to hold for TLS from `min_version` on; see `render_settings`."""
    # Red Hat's OpenSSL, which wheels bring along, asks for this besides; others do not know it.
    return {"OPENSSL_ENABLE_SHA1_SIGNATURES": "1"} if min_version in _SIGNED_WITH_SHA1 else {}


def render_access(*, replicates: bool) -> str:
    """Answer pg_hba.conf: Zorya alone on the Unix socket, everybody else over TCP with a password, never as Zorya.

    Clients' connections arrive over TCP, relayed ones from 127.0.0.1; that the first line cannot match them is what
    keeps a client from being taken for Zorya, which runs as a user that the map knows.

    With several copies those that follow come over the Unix socket too, as a role of their own.

    `md5` is SCRAM for every role but those that have an MD5 verifier still (PostgreSQL manual, "Password
    Authentication"), and for roles that are not there.
    """
    replica = f"local  replication,postgres  {REPLICA}  peer map=zorya\n"
    return (
        f"{_HEADER}"
        f"local  all  {ADMIN}  peer map=zorya\n"
        f"{replica if replicates else ''}"
        "local  all  all  reject\n"
        f"host   all  {ADMIN},{REPLICA}  all  reject\n"
        "host   all  all  all  md5\n"
    )


def render_identities(zorya_user: str, engine_user: str | None) -> str:
    """Answer pg_ident.conf: the system user that Zorya runs as is the administrator.

    `engine_user`, as whom the copies that follow run, is their role; None where there is one copy.

    As root that is root, not the engines' account, so that nothing that runs inside an engine is.
    """
    replica = f"zorya  {_quote_name(engine_user)}  {REPLICA}\n" if engine_user is not None else ""
    return f"{_HEADER}zorya  {_quote_name(zorya_user)}  {ADMIN}\n{replica}"


def initdb_options(major: int) -> list[str]:
    """Answer initdb's options. UTF-8 with C.UTF-8 order, which does not change with the host's C library.

    PostgreSQL 17 and newer bring that order themselves; older ones take the C library's.
    """
    own = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    locale = own if major >= 17 else ["--locale=C.UTF-8"]
    return [
        f"--username={ADMIN}",
        "--encoding=UTF8",
        *locale,
        "--data-checksums",
        "--auth-local=peer",
        "--auth-host=scram-sha-256",
        "--no-instructions",
        "--no-sync",
    ]


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quote_name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
