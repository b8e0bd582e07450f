"""The shared port: the client says which cluster it wants, and is then served as at the cluster's own port.

It is asked in this order: the name that it connects to with TLS (SNI), then what its startup packet says (`naming`).
The name in a TLS hello is looked at while the hello stays unread, so that the engine still does the TLS itself. Who
names no cluster there has to be heard to the startup packet, so the gateway does the TLS, and the session is relayed.
"""

from zorya.gateway import peek, refusals
from zorya.gateway.arrival import Arrival, Directory
from zorya.gateway.postgres import connection, naming, pgwire, startup
from zorya.gateway.postgres import refusals as own_refusals
from zorya.gateway.postgres.introductions import Said
from zorya.gateway.postgres.startup import Start


async def serve(arrival: Arrival, directory: Directory) -> None:
    """Serve a connection; see connection.serve."""
    await connection.guard(arrival, _serve(arrival, directory))


async def _serve(arrival: Arrival, directory: Directory) -> None:
    heard = await startup.hear(arrival.client, arrival.remaining_s)
    match heard:
        case pgwire.Startup():
            await _receive_startup(arrival, directory, heard, None)
        case pgwire.SslRequest():
            await _receive_hello(arrival, directory, await connection.grant_tls(arrival))
        case pgwire.DirectTls():
            await _receive_hello(arrival, directory, Start(heard=heard, taken=None))
        case _:
            await _answer(arrival, directory, heard)


async def _receive_hello(arrival: Arrival, directory: Directory, start: Start) -> None:
    hello = await peek.hear_hello(arrival.client, arrival.remaining_s)
    if hello is None:
        return
    name = naming.by_server_name(hello.server_name, arrival.house.settings.domain)
    if name is not None:
        await _receive(arrival, directory, name, start)
        return
    opening, behind = await connection.talk_over_tls(arrival, start)
    if isinstance(opening, pgwire.Startup):
        await _receive_startup(arrival, directory, opening, behind)
    else:
        await _answer(arrival, directory, opening)


async def _receive_startup(
    arrival: Arrival, directory: Directory, wanted: pgwire.Startup, behind: bytes | None
) -> None:
    """Serve a client that has sent its startup packet. `behind` is what was read after it; None if all is unread."""
    named = naming.by_startup(wanted)
    if named is None:
        domain = arrival.house.settings.domain
        hint = f"Connect with TLS to CLUSTER.{domain}, or with options='-c zorya.cluster=CLUSTER'."
        refusal = own_refusals.of(refusals.no_cluster_named(hint))
        await connection.refuse(arrival, None, Start(heard=wanted, taken=None), refusal)
        return
    if isinstance(named, pgwire.Refusal):
        await connection.refuse(arrival, None, Start(heard=wanted, taken=None), named)
        return
    taken = None
    if behind is not None:
        taken = Said(data=named.startup.raw + behind)
    elif named.startup.raw != wanted.raw:
        peek.take(arrival.client, len(wanted.raw))
        taken = Said(data=named.startup.raw)
    await _receive(arrival, directory, named.cluster, Start(heard=named.startup, taken=taken))


async def _receive(arrival: Arrival, directory: Directory, name: str, start: Start) -> None:
    destination = directory.named(name)
    if destination is None:
        await connection.refuse(arrival, None, start, naming.no_such_cluster(name))
        return
    arrival.cluster = name
    await connection.receive(arrival, destination, start)


async def _answer(arrival: Arrival, directory: Directory, heard: pgwire.Event | None) -> None:
    destination = directory.owning(heard.pid) if isinstance(heard, pgwire.CancelRequest) else None
    await connection.answer(arrival, destination.endpoint if destination else None, heard)
