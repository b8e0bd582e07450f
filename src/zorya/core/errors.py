"""Every error that Zorya raises on purpose.

    ZoryaError
    ├── InvalidInput            the caller asked for something that cannot be
    │   ├── InvalidName
    │   └── InvalidSetting
    ├── NotFound
    │   └── ClusterNotFound
    ├── Conflict                the request does not fit the present state
    │   ├── NameTaken
    │   ├── PortInUse
    │   ├── NoFreePort
    │   ├── ClusterBusy
    │   └── RevisionConflict
    ├── HostProblem             the machine, the disk or the installation is in the way
    │   ├── HomeUnusable
    │   ├── HomeTooNew
    │   ├── AlreadyRunning
    │   ├── EngineMissing
    │   ├── LimitFailed
    │   └── StorageProblem
    │       ├── DiskFull
    │       └── DataDamaged
    ├── EngineProblem           the database engine did not do what it was asked
    │   ├── StartFailed
    │   ├── WakeTimeout
    │   ├── NotReady
    │   ├── FreezeFailed
    │   │   └── FreezeSlow
    │   └── StopFailed
    ├── ServerUnreachable       no Zorya server answers on this home
    └── ProtocolViolation       a client sent what its protocol does not allow

`message` says what happened and `hint` what to do about it; both are for the person who runs Zorya. `client_message` is
what a database client may be told: it never names a path of the host. An exception from outside this tree never reaches
a client.
"""

from enum import StrEnum


class Fault(StrEnum):
    """Whose fault an error is; the API turns it into an HTTP status."""

    CALLER = "caller"
    MISSING = "missing"
    STATE = "state"
    HOST = "host"
    ENGINE = "engine"


class ZoryaError(Exception):
    """The root of the tree; raised only through its descendants."""

    code = "error"
    fault = Fault.HOST
    retry_can_help = False

    def __init__(self, message: str, *, hint: str = "", client_message: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.client_message = client_message or message

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InvalidInput(ZoryaError):
    """The request itself is wrong; repeating it cannot help."""

    code = "invalid_input"
    fault = Fault.CALLER


class InvalidName(InvalidInput):
    """A cluster name that breaks the rules of `core.ids.parse_name`."""

    code = "invalid_name"


class InvalidSetting(InvalidInput):
    """One or more settings do not parse; the message lists all of them."""

    code = "invalid_setting"


class NotFound(ZoryaError):
    """What the request names does not exist."""

    code = "not_found"
    fault = Fault.MISSING


class ClusterNotFound(NotFound):
    """No cluster has this name."""

    code = "cluster_not_found"


class Conflict(ZoryaError):
    """The request is sound but does not fit the present state."""

    code = "conflict"
    fault = Fault.STATE


class NameTaken(Conflict):
    """A cluster of this name exists."""

    code = "name_taken"


class PortInUse(Conflict):
    """Another cluster or another program has the port."""

    code = "port_in_use"


class NoFreePort(Conflict):
    """Every port of the configured range is taken."""

    code = "no_free_port"


class ClusterBusy(Conflict):
    """Sessions are open, or another operation excludes this one."""

    code = "cluster_busy"
    retry_can_help = True


class RevisionConflict(Conflict):
    """A catalog record changed since it was read (compare-and-set failed)."""

    code = "revision_conflict"
    retry_can_help = True


class HostProblem(ZoryaError):
    """The machine, the disk or the installation is in the way."""

    code = "host_problem"


class HomeUnusable(HostProblem):
    """Zorya's home folder cannot be created, read or written."""

    code = "home_unusable"


class HomeTooNew(HostProblem):
    """The home was written by a newer Zorya; nothing in it was touched."""

    code = "home_too_new"


class AlreadyRunning(HostProblem):
    """Another server has this home."""

    code = "already_running"


class EngineMissing(HostProblem):
    """No installation of the engine fits the request."""

    code = "engine_missing"


class LimitFailed(HostProblem):
    """The kernel did not take what a cluster may use; it keeps what it had."""

    code = "limit_failed"
    retry_can_help = True


class StorageProblem(HostProblem):
    """Reading or writing a cluster's files failed."""

    code = "storage_problem"


class DiskFull(StorageProblem):
    """No space is left where the file was to go."""

    code = "disk_full"


class DataDamaged(StorageProblem):
    """A data folder is not what the engine needs; nothing was overwritten."""

    code = "data_damaged"


class EngineProblem(ZoryaError):
    """The database engine did not do what it was asked."""

    code = "engine_problem"
    fault = Fault.ENGINE
    retry_can_help = True


class StartFailed(EngineProblem):
    """The engine exited, or refused, while it was starting."""

    code = "start_failed"


class WakeTimeout(EngineProblem):
    """The engine was not ready before the caller's deadline; the start goes on."""

    code = "wake_timeout"


class NotReady(EngineProblem):
    """The engine is starting, recovering or stopping, and takes no connection now."""

    code = "not_ready"


class FreezeFailed(EngineProblem):
    """The engine's processes could not all be frozen; they all run."""

    code = "freeze_failed"


class FreezeSlow(FreezeFailed):
    """The engine's processes had not all stopped in time, which may well be otherwise the next time."""

    code = "freeze_slow"


class StopFailed(EngineProblem):
    """The engine is still there after every way to stop it was tried."""

    code = "stop_failed"


class ServerUnreachable(ZoryaError):
    """No Zorya server answers on this home."""

    code = "server_unreachable"
    retry_can_help = True


class ProtocolViolation(ZoryaError):
    """A client sent what its protocol does not allow; its connection is closed."""

    code = "protocol_violation"
    fault = Fault.CALLER
