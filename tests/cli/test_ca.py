"""What `zorya ca` prints."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from api.fakes import TOKEN, FakeClusters, FakeServer
from cli.command import DEADLINE_S, Command
from zorya.api import schemas
from zorya.api.serve import Api
from zorya.cli import wire

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
RENEWED = "The server has a new certificate, good until 2026-05-04 09:00:00.\n"


def test_the_wire_type_has_the_fields_of_the_schema() -> None:
    assert set(wire.ServerCertificate.__annotations__) == set(schemas.ServerCertificate.model_fields)


def test_ca_prints_the_root_and_nothing_else(zorya: Command) -> None:
    result = zorya("ca")
    assert (result.returncode, result.stdout, result.stderr) == (0, PEM, "")


def test_ca_describes_the_certificate_when_json_is_asked_for(zorya: Command) -> None:
    shown = json.loads(zorya("ca", "--json").stdout)
    assert shown["root_pem"] == PEM
    assert shown["names"] == ["*.zorya.localhost", "localhost"]


def test_renew_makes_a_new_certificate(zorya: Command) -> None:
    assert zorya("ca", "--renew").stdout == RENEWED
    assert json.loads(zorya("ca", "--renew", "--json").stdout)["fingerprint"] == "E8"


@asynccontextmanager
async def with_an_operators_certificate(home: Path) -> AsyncIterator[None]:
    server, clusters = FakeServer(home, FakeClusters()), FakeClusters()
    server.certificate = replace(
        server.certificate, root_pem=None, root_fingerprint=None, root_not_after=None, source="/etc/ssl/db.pem"
    )
    path = home / "run" / "zorya.sock"
    path.parent.mkdir()
    api = Api(server=server, clusters=clusters, token=TOKEN, socket_path=path, port=0)
    task = asyncio.create_task(api.run(on_ready=server.ready))
    try:
        await asyncio.wait_for(server.is_ready.wait(), DEADLINE_S)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_operators_certificate_is_named_and_has_no_root_to_print(lonely: Command) -> None:
    async with with_an_operators_certificate(lonely.home):
        result = await asyncio.to_thread(lonely, "ca")
        described = await asyncio.to_thread(lonely, "ca", "--json")
        refused = await asyncio.to_thread(lonely, "ca", "--renew", "--json")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "zorya: The server certificate comes from /etc/ssl/db.pem, not from Zorya's own authority. Clients need the "
        "root that signed that one. `zorya ca --json` describes it.\n"
    )
    assert json.loads(described.stdout)["source"] == "/etc/ssl/db.pem"
    assert refused.returncode == 1
    assert json.loads(refused.stderr)["error"]["code"] == "conflict"
