"""The shared port: which cluster a client means, and that it is then served as at the cluster's own port."""

import asyncio

import pytest

from gateway.fakes import FakeEndpoint, RunningGateway, free_port
from gateway.mariadb.raw_client import Attempt, converse, error_number
from gateway.mariadb.real_mariadb import RealMariaDb
from gateway.mariadb.test_clients import mariadb
from gateway.mariadb.test_connection import attempt, error
from zorya.core.model import Access, EngineKind, Entrance
from zorya.core.settings import Settings
from zorya.gateway.mariadb import shared, wire


@pytest.fixture
async def port(gateway: RunningGateway, cluster: FakeEndpoint) -> int:
    """A shared port, with one cluster, `shop`, behind it."""
    gateway.open(cluster)
    port = free_port()
    gateway.gateway.open_shared(port, EngineKind.MARIADB)
    return port


@pytest.fixture(params=["stopped", "running", "frozen"])
def state(request: pytest.FixtureRequest, cluster: FakeEndpoint, relayed: Entrance) -> str:
    if request.param != "stopped":
        cluster.runs(relayed)
    if request.param == "frozen":
        cluster.freezes()
    cluster.starts(relayed)
    return str(request.param)


NAMED = {
    "user": Attempt(user=b"ann@shop"),
    "user, capitals": Attempt(user=b"ann@SHOP"),
    "user, TLS": Attempt(user=b"only_tls@shop", is_tls=True, server_name="db.example.com"),
    "user with an at sign": Attempt(user=b"a@b@shop"),
    "server name": Attempt(user=b"ann", is_tls=True, server_name="shop.zorya.localhost"),
    "server name, user with an at sign": Attempt(user=b"a@b", is_tls=True, server_name="shop.zorya.localhost"),
    "wrong": Attempt(user=b"ann@shop", password=b"wrong"),
    "database": Attempt(user=b"ann@shop", database=b"shop"),
    "database, unknown": Attempt(user=b"chief@shop", database=b"nothing"),
    "switch": Attempt(user=b"ann@shop", plugin=b"caching_sha2_password"),
    "unknown": Attempt(user=b"nobody@shop"),
}


@pytest.mark.parametrize("attempt_", NAMED.values(), ids=NAMED)
async def test_named_cluster_answers(
    port: int, cluster: FakeEndpoint, real: RealMariaDb, settings: Settings, state: str, attempt_: Attempt
) -> None:
    assert settings.domain == "zorya.localhost"
    _, said = await asyncio.to_thread(converse, port, attempt_)
    own = attempt_ if attempt_.server_name == "shop.zorya.localhost" else None
    user = attempt_.user if own else attempt_.user.rpartition(b"@")[0]
    if user == b"nobody":
        assert error_number(said) in (1045, 1698)
        return
    direct = Attempt(user=user, password=attempt_.password, database=attempt_.database, is_tls=attempt_.is_tls)
    _, expected = await asyncio.to_thread(converse, real.port, direct)
    assert said == expected


@pytest.mark.parametrize("user", ["modern@shop", "either@shop", "second@shop", "ann@shop"])
@pytest.mark.parametrize("option", ["--ssl", "--skip-ssl"])
async def test_own_client_is_let_in(port: int, state: str, user: str, option: str) -> None:
    said = await asyncio.to_thread(mariadb, port, option, user=user, statement="SELECT user()")
    assert said == f"{user.partition('@')[0]}@127.0.0.1"


async def test_failure_is_noted_by_who_finds_it_out(port: int, cluster: FakeEndpoint, state: str) -> None:
    assert error(await attempt(port, Attempt(user=b"ann@shop", password=b"wrong")))[1] == 1045
    assert cluster.failures == ([("127.0.0.1", "ann")] if state == "stopped" else [])


@pytest.mark.parametrize(
    "one",
    [
        Attempt(user=b"ann"),
        Attempt(user=b"ann@"),
        Attempt(user=b"ann@no such name"),
        Attempt(user=b"ann", is_tls=True, server_name="zorya.localhost"),
        Attempt(user=b"ann", is_tls=True, server_name="a.shop.zorya.localhost"),
    ],
    ids=str,
)
async def test_client_is_asked_which_cluster_when_it_names_none(port: int, cluster: FakeEndpoint, one: Attempt) -> None:
    _, code, message = error(await attempt(port, one))
    assert code == 1049
    assert message == (
        "this port serves several clusters: say which one."
        " Connect with TLS to CLUSTER.zorya.localhost, or as USER@CLUSTER."
    )
    assert cluster.entered == 0


@pytest.mark.parametrize(
    "one",
    [Attempt(user=b"ann@other"), Attempt(user=b"ann", is_tls=True, server_name="other.zorya.localhost")],
    ids=["user", "server name"],
)
async def test_client_is_told_when_there_is_no_such_cluster(port: int, cluster: FakeEndpoint, one: Attempt) -> None:
    assert error(await attempt(port, one))[1:] == (1049, 'cluster "other" does not exist')
    assert cluster.entered == 0


async def test_cluster_keeps_its_rules(port: int, cluster: FakeEndpoint, state: str) -> None:
    cluster.access = Access(require_tls=True)
    assert error(await attempt(port, Attempt(user=b"ann@shop")))[:2] == (2, 3159)
    assert (await attempt(port, Attempt(user=b"ann@shop", is_tls=True)))[1][0] == wire.OK
    cluster.access = Access(allow=("10.0.0.0/8",))
    assert error(await attempt(port, Attempt(user=b"ann@shop")))[:2] == (2, 1130)
    cluster.access = Access()
    said = await attempt(port, Attempt(user=b"certified@shop", is_tls=True))
    assert error(said)[1] in (1045, 1053)


async def test_old_client_is_refused_when_only_the_engine_could_ask_it(port: int, state: str) -> None:
    from gateway.mariadb.raw_client import USUAL

    one = Attempt(user=b"ann@shop", capabilities=USUAL & ~wire.Capability.PLUGIN_AUTH)
    said = await attempt(port, one)
    if state == "stopped":
        assert said[1][0] == wire.OK
    else:
        assert error(said)[1] == 1251


def test_offer_is_less_than_what_the_engine_has(real: RealMariaDb) -> None:
    assert shared.OFFER.capabilities & ~real.accounts.capabilities == 0
