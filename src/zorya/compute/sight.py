"""Whether this process may see what the engines' processes are doing."""

from zorya.compute import procfs
from zorya.core import errors
from zorya.core.account import Account

_CAP_SYS_PTRACE = 19


def check(account: Account) -> None:
    """Raise HostProblem when it may not see processes of `account`.

    Without that it could not tell whether an engine still runs on a data folder. Root in a container often lacks the
    capability (capabilities(7), CAP_SYS_PTRACE; proc(5), access to /proc/PID/cwd).
    """
    if account.is_other and not procfs.effective_capabilities() & 1 << _CAP_SYS_PTRACE:
        raise errors.HostProblem(
            f"Zorya runs as root without the capability CAP_SYS_PTRACE: it cannot see the processes of {account.name}.",
            hint="Give it that (docker run --cap-add SYS_PTRACE), or run it as an ordinary user.",
        )
