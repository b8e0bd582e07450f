"""The keeper's process: what it does when servers come, are killed, and talk nonsense."""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from keeper import actors
from waiting import wait_until
from zorya.compute import freezer
from zorya.compute.freezer import Freezer
from zorya.keeper import link, wire
from zorya.keeper.client import Keeper

NewKeeper = Callable[..., Keeper]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


def _port(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def test_client_that_comes_while_there_is_no_server_is_served_by_the_next(run: Path, new_keeper: NewKeeper) -> None:
    with actors.doomed(run) as server:
        server.kill()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(b"hello")
            keeper = new_keeper()
            held = keeper.join()
            assert keeper.pid == server.keeper
            assert list(held) == [server.port]
            (listener,) = held[server.port]
            with listener:
                assert listener.gettimeout() == 0
                listener.settimeout(30)
                accepted, _ = listener.accept()
                with accepted:
                    assert accepted.recv(5) == b"hello"


def test_sockets_are_handed_on_over_several_deaths(run: Path, new_keeper: NewKeeper) -> None:
    with actors.doomed(run) as first:
        first.kill()
        with actors.doomed(run) as second:
            second.kill()
            held = new_keeper().join()
            assert set(held) == {first.port, second.port}
            link.close_all(held)


def test_frozen_engine_runs_again_when_the_server_is_killed(run: Path, engine: Freezer, new_keeper: NewKeeper) -> None:
    with actors.doomed(run, frozen=engine) as server:
        wait_until(partial(freezer.is_complete, engine), "the engine is frozen")
        server.kill()
        wait_until(partial(actors.runs, engine), "the engine runs again")
        # What was guarded for one server is not for the next.
        keeper = new_keeper()
        link.close_all(keeper.join())
        actors.freeze(engine)
        keeper.abandon()
        link.close_all(new_keeper().join())
        assert not actors.runs(engine)


def test_frozen_engine_runs_again_when_the_server_leaves(engine: Freezer, new_keeper: NewKeeper) -> None:
    keeper = new_keeper()
    keeper.join()
    keeper.guard("shop", engine)
    actors.freeze(engine)
    keeper.abandon()
    wait_until(partial(actors.runs, engine), "the engine runs again")
    assert new_keeper().join() == {}


def test_engine_stays_frozen_when_it_was_forgotten(engine: Freezer, new_keeper: NewKeeper) -> None:
    keeper = new_keeper()
    keeper.join()
    keeper.guard("shop", engine)
    keeper.forget("shop")
    actors.freeze(engine)
    keeper.abandon()
    new_keeper().join()
    assert not actors.runs(engine)


def test_nothing_is_left_when_the_keeper_is_dismissed(
    run: Path, engine: Freezer, listener: socket.socket, new_keeper: NewKeeper
) -> None:
    keeper = new_keeper()
    keeper.join()
    pid = keeper.pid
    assert pid is not None
    keeper.keep(_port(listener), [listener])
    keeper.guard("shop", engine)
    actors.freeze(engine)
    port = _port(listener)
    listener.close()
    keeper.dismiss()
    assert actors.has_ended(pid)
    assert actors.runs(engine)
    assert actors.is_refused(port)
    assert not (run / wire.SOCKET).exists()
    keeper.dismiss()


def test_keeper_that_an_earlier_server_started_is_dismissed(run: Path, new_keeper: NewKeeper) -> None:
    with actors.doomed(run) as server:
        server.kill()
        keeper = new_keeper()
        link.close_all(keeper.join())
        keeper.dismiss()
        assert actors.has_ended(server.keeper)
        assert actors.is_refused(server.port)


def test_keeper_ends_and_clients_are_refused_when_no_server_comes_in_time(run: Path) -> None:
    with actors.doomed(run, keep_s=0.1) as server:
        server.kill()
        wait_until(partial(actors.has_ended, server.keeper), "the keeper ends")
        assert actors.is_refused(server.port)
        assert not (run / wire.SOCKET).exists()


def test_the_last_server_says_how_long_sockets_are_held(run: Path, new_keeper: NewKeeper) -> None:
    with actors.doomed(run, keep_s=600) as server:
        server.kill()
        keeper = new_keeper(keep_s=0.1)
        link.close_all(keeper.join())
        keeper.abandon()
        wait_until(partial(actors.has_ended, server.keeper), "the keeper ends")


def test_older_sockets_of_a_port_are_closed_when_it_is_kept_anew(
    listener: socket.socket, new_keeper: NewKeeper
) -> None:
    keeper = new_keeper()
    keeper.join()
    port = _port(listener)
    keeper.keep(7400, [listener])
    listener.close()
    assert not actors.is_refused(port)
    with socket.create_server(("127.0.0.1", 0)) as newer:
        newer_port = _port(newer)
        keeper.keep(7400, [newer])
        wait_until(partial(actors.is_refused, port), "the older socket is closed")
    assert not actors.is_refused(newer_port)
    keeper.let_go(7400)
    wait_until(partial(actors.is_refused, newer_port), "the port is let go")


def test_second_server_is_served_when_the_first_has_ended(listener: socket.socket, new_keeper: NewKeeper) -> None:
    first, second = new_keeper(), new_keeper()
    first.join()
    first.keep(7400, [listener])
    with ThreadPoolExecutor(1) as thread:
        joining = thread.submit(second.join)
        first.abandon()
        held = joining.result()
    assert list(held) == [7400]
    link.close_all(held)


def _connect(run: Path) -> socket.socket:
    return wire.connect(run, timeout_s=30)


def test_those_that_are_no_servers_are_turned_away(run: Path, listener: socket.socket, new_keeper: NewKeeper) -> None:
    keeper = new_keeper()
    keeper.join()
    pid = keeper.pid
    keeper.keep(7400, [listener])
    # All but one are there while a server is, and are looked at when it has ended.
    with _connect(run) as nonsense, _connect(run) as long, _connect(run) as other, _connect(run) as silent:
        _connect(run).close()
        nonsense.send(b"\xff{")
        long.send(b" " * 100_000)
        wire.send(other, wire.Keep(port=1), [listener.fileno()])
        keeper.abandon()
        with _connect(run) as late:
            late.send(wire.pack(wire.Dismiss()))
            for one in (nonsense, long, other, silent, late):
                assert _is_closed(one)
    # One says that it is a server and leaves.
    with _connect(run) as hasty:
        wire.send(hasty, wire.Serve(keep_s=600))
    again = new_keeper()
    held = again.join()
    assert again.pid == pid
    assert list(held) == [7400]
    link.close_all(held)


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        # Closed before all that was sent was read.
        return True


def test_server_goes_on_when_it_has_sent_nonsense(run: Path, listener: socket.socket, new_keeper: NewKeeper) -> None:
    started = new_keeper()
    started.join()
    pid = started.pid
    started.abandon()
    with _connect(run) as server:
        wire.send(server, wire.Serve(keep_s=600))
        assert wire.receive(server) == (wire.All(), [])
        for packet in (b"\xff", b"[]", b" " * 100_000, wire.pack(wire.All()), wire.pack(wire.Keep(port=1))):
            server.send(packet)
        socket.send_fds(server, [b"?"], [listener.fileno()])
        wire.send(server, wire.Keep(port=7400), [listener.fileno()])
    keeper = new_keeper()
    held = keeper.join()
    assert keeper.pid == pid
    assert list(held) == [7400]
    link.close_all(held)
    # Said once, however often it happens.
    assert (run / "keeper.log").read_text().count("not logged") == 1


def test_what_was_sent_before_the_end_counts_when_the_server_has_not_read_all(
    run: Path, engine: Freezer, new_keeper: NewKeeper
) -> None:
    started = new_keeper()
    started.join()
    started.abandon()
    # The kernel tells of a reset, since `all` is unread, before the keeper reads the last message.
    actors.freeze(engine)
    with _connect(run) as server:
        wire.send(server, wire.Serve(keep_s=600))
        wire.send(server, wire.Guard(name="shop", freezer=engine))
        wait_until(lambda: server.recv(1, socket.MSG_PEEK), "the keeper has answered")
    wait_until(partial(actors.runs, engine), "the engine runs again")


def test_engine_runs_and_ports_are_closed_when_the_keeper_is_terminated(
    run: Path, engine: Freezer, listener: socket.socket, new_keeper: NewKeeper
) -> None:
    keeper = new_keeper()
    keeper.join()
    pid = keeper.pid
    assert pid is not None
    port = _port(listener)
    keeper.keep(port, [listener])
    listener.close()
    keeper.guard("shop", engine)
    actors.freeze(engine)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    wait_until(partial(actors.has_ended, pid), "the keeper ends")
    assert actors.runs(engine)
    assert actors.is_refused(port)
    assert not (run / wire.SOCKET).exists()


def test_engine_runs_when_the_keeper_is_terminated_before_it_has_read_all(
    engine: Freezer, new_keeper: NewKeeper
) -> None:
    keeper = new_keeper()
    keeper.join()
    pid = keeper.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    for number in range(100):
        keeper.forget(f"other{number}")
    keeper.guard("shop", engine)
    actors.freeze(engine)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    wait_until(partial(actors.has_ended, pid), "the keeper ends")
    assert actors.runs(engine)


def test_interrupt_is_ignored(listener: socket.socket, new_keeper: NewKeeper) -> None:
    keeper = new_keeper()
    keeper.join()
    pid = keeper.pid
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    keeper.keep(7400, [listener])
    keeper.abandon()
    again = new_keeper()
    link.close_all(again.join())
    assert again.pid == pid


def test_only_its_user_reaches_the_keeper(run: Path, new_keeper: NewKeeper) -> None:
    new_keeper().join()
    for name in (wire.SOCKET, "keeper.log"):
        assert stat.S_IMODE((run / name).stat().st_mode) == 0o600


def test_socket_of_a_killed_keeper_is_in_nobodys_way(run: Path, new_keeper: NewKeeper) -> None:
    with actors.doomed(run) as server:
        os.kill(server.keeper, signal.SIGKILL)
        server.kill()
        assert (run / wire.SOCKET).exists()
        keeper = new_keeper()
        assert keeper.join() == {}
        assert keeper.problem == ""
        assert keeper.pid != server.keeper


def test_the_process_imports_nothing_heavy() -> None:
    program = "import sys, zorya.keeper.process; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    heavy = {"asyncio", "logging", "psycopg", "pydantic", "sqlite3", "structlog", "subprocess", "uvloop"}
    assert heavy.isdisjoint(loaded)
