"""Starting the server, in this process or in one of its own, and telling the user what came of it.

Both ways tell it as a client of the started server. In the foreground that client is a thread, so that a terminal which
does not take output (Ctrl-S, a full pipe) holds up no database.
"""

import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from zorya.cli import events, output, programs
from zorya.cli.invocation import Invocation
from zorya.core import errors, location

_LAST_LINES_S = 2.0
_POLL_S = 0.05


def in_foreground(invocation: Invocation, given: Mapping[str, object]) -> None:
    """Run the server until it is stopped. Raises what keeps it from starting."""
    # Nearly all that is made until the server is up is kept until its end; it turns the collector on again.
    gc.disable()
    from zorya import server

    console = _Console(invocation)
    server.run(invocation.home, given=dict(given), on_ready=console.open, on_stopping=console.tell_stopping)
    console.close()


class _Console:
    """What the foreground server shows. The server calls `open` once it is up and `tell_stopping` when it stops."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._tellers: list[threading.Thread] = []

    def open(self) -> None:
        """Announce the server and show events from now on, without freezes and thaws. Returns at once."""
        self._begin(self._tell_all)

    def tell_stopping(self, awake: int) -> None:
        """Say that the server has begun to put `awake` clusters to sleep, if any. Returns at once."""
        if awake:
            self._begin(lambda: _say(f"Putting {output.count(awake, 'cluster')} to sleep."))

    def close(self) -> None:
        """Let the last lines out, for as long as a terminal needs that takes output."""
        for teller in self._tellers:
            teller.join(_LAST_LINES_S)
        _say("Zorya is down.")

    def _begin(self, tell: Callable[[], None]) -> None:
        teller = threading.Thread(target=tell, name="console", daemon=True)
        self._tellers.append(teller)
        teller.start()

    def _tell_all(self) -> None:
        # Nobody may be reading any more, which is no reason to stop the server; its end is the other way out.
        with contextlib.suppress(BrokenPipeError, errors.ServerUnreachable):
            api = self._invocation.api
            latest = api.events(None, after=0, limit=1, wait_s=0, sleep=True)
            announce(self._invocation)
            down = self._invocation.command("down")
            output.say(f"Ctrl-C, or `{down}`, puts every cluster to sleep and stops the server.")
            if not sys.stdout.isatty():
                return  # the log tells the same
            output.say()
            for event in events.following(api, None, after=latest[-1]["seq"] if latest else 0, sleep=False):
                if events.is_news(event):
                    output.say(output.event_line(event))


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        output.say(line)


def in_background(invocation: Invocation, given: Mapping[str, object]) -> None:
    """Start the server in a session of its own and return once it is up.

    Raises HostProblem with the server's own words when it ends first. An interrupt ends it too.
    """
    path = invocation.home / location.SERVER_LOG
    with _open_log(path) as log:
        begin = log.seek(0, os.SEEK_END)
        server = subprocess.Popen(
            [sys.executable, "-m", "zorya", "--home", str(invocation.home), "up", *_options(given)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        with output.progress("Starting Zorya", lambda: None):
            while not _is_up(invocation, server.pid):
                if server.poll() is not None:
                    raise _why_it_ended(server.returncode, path, begin)
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        raise
    announce(invocation)
    down = invocation.command("down")
    output.say(f"`{down}` puts every cluster to sleep and stops the server. Its log is {path}.")


def announce(invocation: Invocation) -> None:
    """Say that the server is up, what it has, and how to connect."""
    api = invocation.api
    status = api.status()
    output.say(f"Zorya {status['version']} is up (home {status['home']}).")
    found = api.clusters()
    if not found:
        output.say(f"There is no cluster; `{invocation.command('create')} NAME` makes one.")
    elif len(found) > 1:
        states = [cluster["compute"] for cluster in found]
        awake = f"{states.count('running')} of them running"
        if "frozen" in states:
            awake += f" and {states.count('frozen')} frozen"
        output.say(f"It has {len(found)} clusters, {awake}; `{invocation.command('list')}` shows them.")
    else:
        cluster = found[0]
        credentials = api.credentials(cluster["name"])
        url = credentials["url"].replace(credentials["password"], "…")
        if cluster["compute"] == "stopped":
            output.say(f"Cluster {cluster['name']} sleeps at {url}; it starts when you connect:")
        else:
            output.say(f"Cluster {cluster['name']} is {cluster['compute']} at {url}; connect with:")
        output.say()
        output.say(f"    {programs.command_line(invocation, cluster['name'], cluster['engine'])}")
        output.say()


def _open_log(path: Path) -> BinaryIO:
    """Open the server's log for appending. It and its folder are for their owner alone."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")  # noqa: PTH123
    except OSError as error:
        raise errors.HomeUnusable(
            f"The server's log {path} cannot be written: {error.strerror}.", hint="Choose a home that you can write to."
        ) from error


def _options(given: Mapping[str, object]) -> Iterator[str]:
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            yield f"--{name.replace('_', '-')}={one}"


def _is_up(invocation: Invocation, pid: int) -> bool:
    try:
        return invocation.api.status()["pid"] == pid
    except errors.ServerUnreachable:
        return False


def _why_it_ended(code: int, log: Path, begin: int) -> errors.HostProblem:
    """Answer the error that the server's process printed last, from byte `begin` of its log on.

    A process that ended well found another server on the home, which began to start after this command had looked.
    """
    if code == 0:
        return errors.AlreadyRunning("Another server has this home.")
    written = log.read_bytes()[begin:].decode(errors="replace")
    told = [line for line in written.splitlines() if line.startswith(output.ERROR_PREFIX)]
    if told:
        return errors.HostProblem(told[-1].removeprefix(output.ERROR_PREFIX))
    return errors.HostProblem(f"The server ended with exit code {code} before it was up.", hint=f"Its log is {log}.")
