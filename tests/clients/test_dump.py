"""pg_dump, pg_restore and psql, unchanged, through the endpoints of two clusters."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import Server

pytestmark = pytest.mark.parametrize("way", ["handoff", "freezing"], indirect=True, scope="module")

CONTENT = """
CREATE SCHEMA shop;
CREATE TYPE shop.state AS ENUM ('open', 'paid');
CREATE TABLE shop.orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state shop.state NOT NULL DEFAULT 'open',
    note text,
    data jsonb,
    raw bytea
);
INSERT INTO shop.orders (note, data, raw)
    SELECT E'line\\n\\ttab \\\\ ' || n, jsonb_build_object('n', n), decode(md5(n::text), 'hex')
    FROM generate_series(1, 20000) n;
CREATE INDEX ON shop.orders USING gin (data);
CREATE FUNCTION shop.paid() RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM shop.orders WHERE state = 'paid' $$;
CREATE VIEW shop.recent AS SELECT * FROM shop.orders ORDER BY id DESC LIMIT 10;
CREATE EXTENSION IF NOT EXISTS pgcrypto;
COMMENT ON TABLE shop.orders IS 'Žluté zboží';
SELECT lo_from_bytea(4711, decode(repeat('c0ffee', 100000), 'hex'));
"""


@pytest.fixture(scope="module")
def source(server: Server, program: Callable[[str], str]) -> str:
    """The URL of a cluster with something of everything in it, filled by psql while it slept."""
    url = server.url()
    filled = subprocess.run(
        [program("psql"), "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet", url],
        input=CONTENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert filled.returncode == 0, filled.stderr
    return url


@pytest.fixture
def target(server: Server) -> Iterator[str]:
    """The URL of an empty cluster that sleeps."""
    server.run("create", "target")
    assert server.show("target")["compute"] == "stopped"
    yield server.url("target")
    server.run("delete", "target", "--yes")


def normal(dump: str) -> str:
    """A dump without what differs from run to run."""
    return re.sub(r"^\\(un)?restrict .*$", "", dump, flags=re.MULTILINE)


def test_dump_is_the_same_when_it_went_through_psql_into_another_cluster(
    source: str, target: str, program: Callable[[str], str], run: Callable[..., str]
) -> None:
    with subprocess.Popen([program("pg_dump"), source], stdout=subprocess.PIPE) as dumping:
        restoring = subprocess.run(
            [program("psql"), "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet", target],
            stdin=dumping.stdout,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert (dumping.returncode, restoring.returncode) == (0, 0), restoring.stderr
    assert normal(run("pg_dump", target)) == normal(run("pg_dump", source))


def test_dump_is_the_same_when_it_went_through_pg_restore_in_parallel(
    source: str, target: str, run: Callable[..., str], tmp_path: Path
) -> None:
    folder = str(tmp_path / "dump")
    run("pg_dump", "--format=directory", "--jobs=3", f"--file={folder}", source)
    run("pg_restore", "--exit-on-error", "--jobs=3", f"--dbname={target}", folder)
    assert normal(run("pg_dump", target)) == normal(run("pg_dump", source))


def test_psql_copies_rows_and_large_objects_to_the_clients_files_and_back(
    source: str, run: Callable[..., str], tmp_path: Path
) -> None:
    rows, blob = tmp_path / "rows", tmp_path / "blob"
    psql = ("psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet", "--tuples-only", "--no-align", source)
    printed = run(
        *psql,
        stdin=f"\\copy shop.orders TO '{rows}'\n"
        "CREATE TEMP TABLE again (LIKE shop.orders);\n"
        f"\\copy again FROM '{rows}'\n"
        "SELECT count(*) FROM again;\n"
        f"\\lo_export 4711 '{blob}'\n"
        f"\\lo_import '{blob}'\n"
        "SELECT lo_get(:LASTOID) = lo_get(4711);\n",
    )
    assert printed.split() == ["20000", "t"]
    assert blob.read_bytes() == bytes.fromhex("c0ffee") * 100000
