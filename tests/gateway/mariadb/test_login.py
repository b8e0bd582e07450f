"""Logging in through the gateway, compared with the same login at a real server, packet numbers and words alike."""

import asyncio
from dataclasses import replace

import pytest

from gateway.fakes import FakeEndpoint, RunningGateway
from gateway.mariadb.raw_client import USUAL, Attempt, converse, error_number
from gateway.mariadb.real_mariadb import RealMariaDb
from zorya.core.model import Entrance
from zorya.gateway.mariadb.wire import Capability

OTHER = b"caching_sha2_password"

ATTEMPTS = {
    "right": Attempt(user=b"ann"),
    "wrong": Attempt(user=b"ann", password=b"wrong"),
    "no password": Attempt(user=b"ann", password=b""),
    "bare": Attempt(user=b"bare", password=b""),
    "bare, a password": Attempt(user=b"bare"),
    "database": Attempt(user=b"ann", database=b"shop"),
    "database, empty": Attempt(user=b"ann", database=b""),
    "database, forbidden": Attempt(user=b"ann", database=b"other"),
    "database, unknown and forbidden": Attempt(user=b"ann", database=b"nothing"),
    "database, unknown": Attempt(user=b"chief", database=b"nothing"),
    "database, of all": Attempt(user=b"ann", database=b"INFORMATION_SCHEMA"),
    "database, of the system": Attempt(user=b"ann", database=b"mysql"),
    "database, too long": Attempt(user=b"ann", database=b"d" * 65),
    "database, much too long": Attempt(user=b"ann", database=b"d" * 5000),
    "database, ends in a space": Attempt(user=b"ann", database=b"shop "),
    "database, not ASCII": Attempt(user=b"ann", database="b\u00e9b\u00e9".encode()),
    "database, latin1": Attempt(user=b"ann", database="b\u00e9b\u00e9".encode("latin-1"), collation=8),
    "database, not of its character set": Attempt(user=b"ann", database=b"b\xe9"),
    "database, by a pattern": Attempt(user=b"pattern", database=b"sh_p"),
    "database, beside the pattern": Attempt(user=b"pattern", database=b"shop"),
    "database, wrong password": Attempt(user=b"ann", password=b"wrong", database=b"other"),
    "locked": Attempt(user=b"locked"),
    "locked, wrong": Attempt(user=b"locked", password=b"wrong"),
    "without TLS": Attempt(user=b"only_tls"),
    "certificate, without TLS": Attempt(user=b"certified"),
    "expired": Attempt(user=b"expired"),
    "broken": Attempt(user=b"broken"),
    "broken, no password": Attempt(user=b"broken", password=b""),
    "switch": Attempt(user=b"ann", plugin=OTHER),
    "switch, wrong": Attempt(user=b"ann", password=b"wrong", plugin=OTHER),
    "second method": Attempt(user=b"second"),
    "second method, wrong": Attempt(user=b"second", password=b"wrong"),
    "no plugins": Attempt(user=b"ann", capabilities=USUAL & ~Capability.PLUGIN_AUTH),
    "no plugins, wrong": Attempt(user=b"ann", password=b"wrong", capabilities=USUAL & ~Capability.PLUGIN_AUTH),
    "no plugins, second method": Attempt(user=b"second", capabilities=USUAL & ~Capability.PLUGIN_AUTH),
    "no plugins, modern": Attempt(user=b"modern", capabilities=USUAL & ~Capability.PLUGIN_AUTH),
    "short length": Attempt(user=b"ann", capabilities=USUAL & ~Capability.LENENC_CLIENT_DATA),
    "attributes": Attempt(user=b"ann", capabilities=USUAL | Capability.CONNECT_ATTRS),
    "compressed": Attempt(user=b"ann", capabilities=USUAL | Capability.COMPRESS),
    "token of another length": Attempt(user=b"ann", token=b"short"),
    "quotes": Attempt(user=b"'ann'"),
    "latin1": Attempt(user="ren\u00e9".encode("latin-1"), collation=8),
    "latin1, wrong": Attempt(user="ren\u00e9".encode("latin-1"), password=b"wrong", collation=8),
    "UTF-8": Attempt(user="ren\u00e9".encode()),
    "UTF-8, wrong": Attempt(user="ren\u00e9".encode(), password=b"wrong"),
    "Cyrillic": Attempt(user="\u0430\u043d\u044f".encode("cp1251"), collation=51),
    "cannot be read": Attempt(user=b"ann\xff"),
    "two bytes a character": Attempt(user=b"ann", collation=35),
    "unknown collation": Attempt(user=b"ann", collation=255),
    "long name": Attempt(user=b"x" * 200),
    "from elsewhere": Attempt(user=b"ann", password=b"wrong", source="127.0.0.5"),
    "near": Attempt(user=b"near", source="127.0.0.77"),
    "masked": Attempt(user=b"masked", source="127.0.7.200"),
    "anonymous": Attempt(user=b"whoever", password=b"nobody", source="127.0.9.9"),
    "anonymous before a name": Attempt(user=b"ann", password=b"nobody", source="127.0.9.9"),
    "anonymous, a database": Attempt(user=b"ann", password=b"nobody", source="127.0.9.9", database=b"shop"),
    "TLS": Attempt(user=b"only_tls", is_tls=True),
    "TLS, wrong": Attempt(user=b"only_tls", password=b"wrong", is_tls=True),
    "TLS, switch": Attempt(user=b"ann", plugin=OTHER, is_tls=True),
    "TLS, a database": Attempt(user=b"ann", database=b"nothing", is_tls=True),
    "no response": Attempt(user=b"", body=b""),
    "short response": Attempt(user=b"", body=b"\x00\x02"),
    "token beyond the end": Attempt(user=b"", body=USUAL.to_bytes(4, "little") + bytes(28) + b"ann\0\x14abc"),
    "out of order": Attempt(user=b"ann", number=7),
    "TLS, out of order": Attempt(user=b"ann", number=1, is_tls=True),
}

STRANGERS = {
    "unknown": Attempt(user=b"nobody"),
    "unknown, no password": Attempt(user=b"nobody", password=b""),
    "localhost": Attempt(user=b"here"),
    "not near": Attempt(user=b"near", source="127.0.1.77"),
    "not masked": Attempt(user=b"masked", source="127.0.8.0"),
    "nobody's name": Attempt(user=b"", password=b""),
}

MANY = [
    Attempt(user=b"many", password=password, source=source)
    for password in (b"anywhere", b"loop", b"exact", b"digit", b"mask")
    for source in ("127.0.0.1", "127.0.0.2", "127.0.0.22", "127.0.1.1")
]


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
async def test_login_ends_as_at_the_server_itself(
    gateway: RunningGateway, cluster: FakeEndpoint, real: RealMariaDb, relayed: Entrance, attempt: Attempt
) -> None:
    cluster.starts(relayed)
    port = gateway.open(cluster)
    expected = await asyncio.to_thread(converse, real.port, attempt)
    assert await asyncio.to_thread(converse, port, attempt) == expected
    is_let_in = expected[1][:1] == b"\0"
    assert cluster.wakes == (1 if is_let_in or attempt.database == b"b\xe9" else 0)


@pytest.mark.parametrize("attempt", STRANGERS.values(), ids=STRANGERS)
async def test_stranger_is_refused_like_a_wrong_password(
    gateway: RunningGateway, cluster: FakeEndpoint, real: RealMariaDb, attempt: Attempt
) -> None:
    port = gateway.open(cluster)
    # MariaDB takes any account in place of the one that is not there, so that its answer may be that of any plugin.
    _, refused = await asyncio.to_thread(converse, real.port, attempt)
    assert error_number(refused) in (1045, 1698)
    known = replace(attempt, user=b"ann", password=attempt.password and b"wrong")
    _, expected = await asyncio.to_thread(converse, real.port, known)
    _, said = await asyncio.to_thread(converse, port, attempt)
    assert said.replace(b"'" + attempt.user + b"'", b"'ann'") == expected
    assert cluster.wakes == 0
    assert cluster.failures == [(attempt.source, attempt.user.decode())]


@pytest.mark.parametrize("attempt", MANY, ids=str)
async def test_most_specific_host_decides(
    gateway: RunningGateway, cluster: FakeEndpoint, real: RealMariaDb, relayed: Entrance, attempt: Attempt
) -> None:
    cluster.starts(relayed)
    port = gateway.open(cluster)
    assert await asyncio.to_thread(converse, port, attempt) == await asyncio.to_thread(converse, real.port, attempt)
