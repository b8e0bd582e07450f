"""What each client gets, in each of its modes, in each state of the cluster: the table of docs/tls.md is made here.

ZORYA_WRITE_DOCS=1 has the page written anew; otherwise it has to be as it is found.
"""

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from fix_home import running_for_a_file
from harness import Server
from tls import clients
from tls.clients import LIBPQ_MODES, NODE_MODES, Refused, Session, Target

PAGE = Path(__file__).parents[2] / "docs" / "tls.md"
NODE = Path(__file__).parents[1] / "clients" / "node"
STATES = ("running", "frozen", "stopped")
WAYS = ("handoff", "relay")
BEGIN, END = "<!-- table made by tests/tls/test_modes.py -->\n", "<!-- end of the table -->\n"
WRITES = os.environ.get("ZORYA_WRITE_DOCS") == "1"

CELLS = {"plain": "plain", "TLS by PostgreSQL": "PostgreSQL", "TLS by Zorya": "Zorya"}
"""What stands in the page's table for each outcome."""

Connect = Callable[[Target, str], Session]


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(way: str, templates: Path) -> Iterator[Server]:
    with running_for_a_file(templates, ZORYA_ATTACH=way, ZORYA_FREEZE_AFTER="0.05") as started:
        yield started


@pytest.fixture(scope="module")
def root(server: Server) -> Path:
    path = server.home.parent / "root.pem"
    path.write_text(server.run("ca"))
    return path


@pytest.fixture(scope="module")
def target(server: Server, root: Path) -> Target:
    return target_of(server, root)


def target_of(server: Server, root: Path, name: str = "main") -> Target:
    credentials = server.api.credentials(name)
    return Target(
        host=f"{name}.zorya.localhost",
        port=credentials["endpoint"]["port"],
        user=credentials["username"],
        password=credentials["password"],
        database=credentials["database"],
        root=root,
    )


@contextlib.contextmanager
def in_state(server: Server, target: Target, state: str) -> Iterator[None]:
    """Have the cluster in this state at the beginning of the block."""
    with contextlib.ExitStack() as stack:
        if state == "stopped":
            server.api.pause("main", force=True)
            server.wait_for("stopped")
        else:
            other = stack.enter_context(psycopg.connect(target.conninfo(sslmode="disable"), autocommit=True))
            if state == "running":
                done = threading.Event()
                worker = threading.Thread(target=_work, args=(other, done))
                worker.start()
                stack.callback(worker.join)
                stack.callback(done.set)
            server.wait_for(state)
        yield


def _work(connection: psycopg.Connection, done: threading.Event) -> None:
    while not done.is_set():
        connection.execute("SELECT pg_sleep(0.02)")


def table(rows: list[tuple[str, str, dict[tuple[str, str], str]]]) -> str:
    columns = [(way, state) for way in WAYS for state in STATES]
    head = ["client", "mode", *(f"{way}, {state}" for way, state in columns)]
    lines = [head, ["---"] * len(head)]
    lines += [[client, f"`{mode}`", *(CELLS[cells[column]] for column in columns)] for client, mode, cells in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


@pytest.fixture(scope="module")
def node_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"this host has no {program}")
    folder = tmp_path_factory.mktemp("node") / "package"
    shutil.copytree(NODE, folder, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "ci", "--prefer-offline", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder


EXPECTED = {
    # libpq's documentation, table 34.1: allow and prefer take what they get, here always the first they ask for.
    "disable": {"running": "plain", "frozen": "plain", "stopped": "plain"},
    "allow": {"running": "plain", "frozen": "plain", "stopped": "plain"},
    **{
        mode: {"running": "TLS by PostgreSQL", "frozen": "TLS by PostgreSQL", "stopped": "TLS by Zorya"}
        for mode in ("prefer", "require", "verify-ca", "verify-full")
    },
}
EXPECTED["ssl: false"] = EXPECTED["disable"]
EXPECTED["ssl: { rejectUnauthorized: false }"] = EXPECTED["ssl: { ca }"] = EXPECTED["require"]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("mode", LIBPQ_MODES)
@pytest.mark.parametrize("client", ["psql", "psycopg", "asyncpg"])
def test_client_gets_what_its_mode_asks_for(server: Server, target: Target, client: str, mode: str, state: str) -> None:
    connect: Connect
    if client == "psql":
        program = clients.find_psql()
        if program is None:
            pytest.skip("this host has no psql")
        connect = clients.psql(program)
    else:
        connect = clients.with_psycopg if client == "psycopg" else clients.with_asyncpg
    with in_state(server, target, state):
        assert str(connect(target, mode)) == EXPECTED[mode][state]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("mode", NODE_MODES)
def test_node_gets_what_it_asks_for(server: Server, target: Target, node_package: Path, mode: str, state: str) -> None:
    with in_state(server, target, state):
        assert str(clients.with_node(node_package)(target, mode)) == EXPECTED[mode][state]


@pytest.mark.parametrize("state", STATES)
def test_direct_negotiation_works_with_any_engine(server: Server, target: Target, state: str) -> None:
    program = clients.find_psql(17)
    if program is None:
        pytest.skip("no psql of PostgreSQL 17 is here")
    major = int(server.show()["engine_version"].partition(".")[0])
    engine = "TLS by PostgreSQL" if major >= 17 else "TLS by Zorya"
    with in_state(server, target, state):
        session = clients.psql(program)(target, "require", sslnegotiation="direct")  # type: ignore[call-arg]
        assert str(session) == ("TLS by Zorya" if state == "stopped" else engine)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("mode", "changed", "said"),
    [
        ("verify-full", {"host": "main.elsewhere.example"}, "does not match host name"),
        ("verify-full", {"root": "/etc/ssl/certs/ca-certificates.crt"}, "certificate verify failed"),
        ("verify-ca", {"root": "/etc/ssl/certs/ca-certificates.crt"}, "certificate verify failed"),
    ],
    ids=["wrong name", "wrong root, full", "wrong root"],
)
def test_client_that_does_not_trust_the_certificate_goes_and_wakes_nothing(
    server: Server, target: Target, mode: str, changed: dict[str, str], said: str, state: str
) -> None:
    wrong_root = Path(changed.get("root", target.root))
    if not wrong_root.exists():
        pytest.skip("this host has no other roots")
    wrong = Target(
        host=changed.get("host", target.host),
        port=target.port,
        user=target.user,
        password=target.password,
        database=target.database,
        root=wrong_root,
    )
    with in_state(server, target, state):
        with pytest.raises(Refused, match=said):
            clients.with_psycopg(wrong, mode)
        if state == "stopped":
            assert server.show()["compute"] == "stopped"


@pytest.mark.parametrize("state", STATES)
def test_channel_binding_can_be_required(server: Server, target: Target, state: str) -> None:
    with in_state(server, target, state):
        clients.with_psycopg(target, "require", channel_binding="require")


def test_page_has_the_table_that_is_tested() -> None:
    """The cells are those of EXPECTED, which the other tests hold against the clients."""
    rows = [
        (client, mode, {(way, state): EXPECTED[mode][state] for way in WAYS for state in STATES})
        for client, modes in (
            ("psql, psycopg, asyncpg", LIBPQ_MODES),
            ("node-postgres", tuple(NODE_MODES)),
        )
        for mode in modes
    ]
    made = BEGIN + "\n" + table(rows) + "\n" + END
    page = PAGE.read_text()
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if WRITES:
        PAGE.write_text(pattern.sub(lambda _: made, page))
    else:
        assert pattern.findall(page) == [made], "write the page anew with ZORYA_WRITE_DOCS=1"
