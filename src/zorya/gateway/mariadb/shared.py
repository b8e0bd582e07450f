"""The shared port: the client says which cluster it wants, and is then served as at the cluster's own port.

It is asked in this order: the name that it connects to with TLS (SNI), then the end of its user's name (`naming`). The
server speaks first in this protocol, so that the gateway has to greet everybody, as a server of which nobody knows yet
whose it is, and to do the TLS. So a client's certificate never gets to the engine: accounts that `REQUIRE X509` have to
come by their cluster's own port.
"""

from zorya.gateway import boarding, refusals
from zorya.gateway.arrival import Arrival, Directory
from zorya.gateway.mariadb import connection, naming
from zorya.gateway.mariadb import refusals as own_refusals
from zorya.gateway.mariadb.conversation import Conversation, Offer

OFFER = Offer(version="5.5.5-10.6.0-MariaDB", capabilities=0x1D_81FF_F7FE, collation=45)
"""What every MariaDB from 10.6 on can do, and nothing that only newer ones can; utf8mb4_general_ci."""


async def serve(arrival: Arrival, directory: Directory) -> None:
    """Serve a connection; see connection.serve."""
    talk = Conversation(arrival)
    await talk.guard(_serve(talk, directory))


async def _serve(talk: Conversation, directory: Directory) -> None:
    arrival = talk.arrival
    response, hello = await talk.greet(OFFER)
    if response is None:
        return
    domain = arrival.house.settings.domain
    name = naming.by_server_name(hello.server_name if hello is not None else None, domain)
    if name is None:
        named = naming.by_user(response)
        if named is None:
            hint = f"Connect with TLS to CLUSTER.{domain}, or as USER@CLUSTER."
            await talk.refuse(own_refusals.of(refusals.no_cluster_named(hint)))
            return
        name, response = named.cluster, named.response
    destination = directory.named(name)
    if destination is None:
        await talk.refuse(own_refusals.no_such_cluster(name))
        return
    arrival.cluster = name
    endpoint = destination.endpoint
    await endpoint.taken_over()
    refusal = connection.why_not(arrival, endpoint) or await boarding.await_turn(arrival, endpoint)
    if refusal is not None:
        await talk.refuse(own_refusals.of(refusal))
        return
    await connection.receive(talk, destination, response)
