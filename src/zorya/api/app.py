"""The routes of the REST API, version 1, and the metrics beside them.

Every handler runs in the event loop: what it calls either returns at once or is awaited.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Query
from fastapi.security import HTTPBearer

import zorya
from zorya.api import bodies, failures, metrics, schemas, usage
from zorya.api.long_poll import LongPolls
from zorya.api.server_control import ServerControl
from zorya.control.facade import Clusters

_MAX_SEQ = 2**63 - 1
_FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": schemas.Failure, "description": "Refused: the error says why and what to do."},
    "5XX": {"model": schemas.Failure, "description": "The host, the engine or the server failed."},
}

_HTTP_BEARER = "Over TCP, the text in the file api-token of Zorya's home. The Unix socket asks for none."


def build(server: ServerControl, clusters: Clusters, *, polls: LongPolls) -> FastAPI:
    """Answer the application. It serves everyone: see `guard` for what asks for a token.

    `polls` holds the requests that wait for events, so that whoever serves the application can end them.
    """
    app = FastAPI(
        title="Zorya",
        version=zorya.__version__,
        description="Serverless PostgreSQL and MariaDB on your own machine. Errors have the form of `Failure`.",
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(HTTPBearer(auto_error=False, description=_HTTP_BEARER))],
    )
    for router in (
        _server_routes(server),
        _cluster_routes(server, clusters),
        _volume_routes(clusters),
        _event_routes(clusters, polls),
        usage.routes(clusters),
    ):
        app.include_router(router, prefix="/v1", responses=_FAILURES)
    app.include_router(metrics.routes(server, clusters), responses=_FAILURES)
    failures.install(app)
    app.add_middleware(failures.LastResort)
    return app


def _server_routes(server: ServerControl) -> APIRouter:
    routes = APIRouter(tags=["server"])

    @routes.get("/status")
    async def read_status() -> schemas.ServerStatus:
        """The server: where it is, since when, and how many clusters it has."""
        return schemas.ServerStatus.model_validate(server.status())

    @routes.get("/doctor")
    async def examine_host() -> schemas.FindingList:
        """What this host can do, and what to change to get the rest."""
        found = await server.doctor()
        return schemas.FindingList(findings=[schemas.Finding.model_validate(one) for one in found])

    @routes.get("/ca")
    async def show_certificate() -> schemas.ServerCertificate:
        """The server's certificate, and the root with which clients verify it where that is Zorya's own."""
        return schemas.ServerCertificate.model_validate(server.ca())

    @routes.post("/ca/renew")
    async def renew_certificate() -> schemas.ServerCertificate:
        """Make a new server certificate now. The root stays, and so do the connections that are open.

        Refused with `conflict` when the certificate is the operator's.
        """
        return schemas.ServerCertificate.model_validate(await server.renew_certificate())

    @routes.post("/stop", status_code=202)
    async def stop_server(
        body: Annotated[bodies.StopServer, Body(default_factory=bodies.StopServer)],
    ) -> schemas.ServerStatus:
        """Begin to put every cluster to sleep and end the server; answers what there was to stop.

        With leave_running the engines and their sessions go on for the next server.
        """
        status = server.status()
        server.stop(leave_running=body.leave_running)
        return schemas.ServerStatus.model_validate(status)

    return routes


def _cluster_routes(server: ServerControl, clusters: Clusters) -> APIRouter:
    routes = APIRouter(prefix="/clusters", tags=["clusters"])

    @routes.get("")
    async def list_clusters() -> schemas.ClusterList:
        """Every cluster, ordered by name."""
        return schemas.ClusterList(clusters=[schemas.Cluster.model_validate(one) for one in clusters.all()])

    @routes.post("", status_code=201)
    async def create_cluster(body: bodies.CreateCluster) -> schemas.Cluster:
        """Make a cluster. It is available when this answers, and asleep unless it is provisioned."""
        request = body.to_request(
            default_pause_after_s=server.default_pause_after_s, default_freeze_after_s=server.default_freeze_after_s
        )
        return schemas.Cluster.model_validate(await clusters.create(request))

    @routes.get("/{name}")
    async def show_cluster(name: str) -> schemas.Cluster:
        """One cluster."""
        return schemas.Cluster.model_validate(clusters.get(name))

    @routes.patch("/{name}")
    async def modify_cluster(name: str, body: bodies.ModifyCluster) -> schemas.Cluster:
        """Change who may connect, when it sleeps, what capacity and how many copies it has, without a restart.

        What is absent or null stays.
        """
        return schemas.Cluster.model_validate(await clusters.modify(name, body.to_request()))

    @routes.post("/{name}/capacity")
    async def set_capacity(name: str, body: bodies.SetCapacity) -> schemas.Cluster:
        """Give a running cluster this capacity now. After the setting capacity_hold_s the load decides again.

        That of a provisioned cluster is its capacity from then on, whether it runs or not.
        """
        return schemas.Cluster.model_validate(await clusters.set_capacity(name, body.capacity))

    @routes.delete("/{name}", status_code=204)
    async def delete_cluster(name: str) -> None:
        """End the cluster's sessions and remove it with all its data."""
        await clusters.delete(name)

    @routes.get("/{name}/credentials")
    async def show_credentials(name: str) -> schemas.Credentials:
        """What a client needs to connect, with the password."""
        return schemas.Credentials.of(clusters.credentials(name))

    @routes.post("/{name}/password")
    async def change_password(name: str) -> schemas.Credentials:
        """Give the cluster's user a new password, and answer it. Wakes the cluster; open sessions stay."""
        return schemas.Credentials.of(await clusters.change_password(name))

    @routes.post("/{name}/pause")
    async def pause_cluster(
        name: str, body: Annotated[bodies.PauseCluster, Body(default_factory=bodies.PauseCluster)]
    ) -> schemas.Cluster:
        """Stop the engine. Refused while sessions are open, unless forced."""
        return schemas.Cluster.model_validate(await clusters.pause(name, force=body.force))

    @routes.post("/{name}/resume")
    async def resume_cluster(name: str) -> schemas.Cluster:
        """Start the engine if it does not run."""
        return schemas.Cluster.model_validate(await clusters.resume(name))

    return routes


def _volume_routes(clusters: Clusters) -> APIRouter:
    routes = APIRouter(prefix="/clusters/{name}", tags=["volumes"])

    @routes.get("/copies")
    async def list_copies(name: str) -> schemas.CopyList:
        """The copies of the cluster's volume as they were seen last, by zone and kind."""
        return schemas.CopyList(copies=[schemas.Copy.model_validate(one) for one in clusters.copies(name)])

    @routes.post("/verify")
    async def verify_volume(name: str) -> schemas.Verification:
        """Check the checksums of data and log and whether the copies agree, and repair what is damaged.

        Answers when everything was looked at. What takes longer to repair goes on after that.
        """
        return schemas.Verification.model_validate(await clusters.verify(name))

    @routes.post("/recover")
    async def recover_cluster(
        name: str, body: Annotated[bodies.RecoverCluster, Body(default_factory=bodies.RecoverCluster)]
    ) -> schemas.Cluster:
        """Go on from what is left where too few copies are left to know what was committed. Data may be lost.

        Refused with `conflict` where enough copies are left, and unless the body accepts the loss.
        """
        return schemas.Cluster.model_validate(await clusters.recover(name, accept_data_loss=body.accept_data_loss))

    return routes


def _event_routes(clusters: Clusters, polls: LongPolls) -> APIRouter:
    routes = APIRouter(tags=["events"])

    @routes.get("/events")
    async def list_events(
        cluster: Annotated[str | None, Query(description="Only this cluster's, which may be deleted.")] = None,
        after: Annotated[int, Query(ge=0, le=_MAX_SEQ, description="Only events with a higher `seq`.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000, description="Only the newest so many.")] = 100,
        wait: Annotated[
            float, Query(ge=0, le=60, allow_inf_nan=False, description="Seconds to wait for an event if there is none.")
        ] = 0,
        *,
        sleep: Annotated[
            bool, Query(description="Whether freezes and thaws, the category `sleep`, are among them.")
        ] = True,
    ) -> schemas.EventList:
        """What happened, oldest first. To follow, ask again with `after` set to the last `seq` and a `wait`."""
        found = await clusters.events(cluster, after=after, limit=limit, sleep=sleep)
        if not found and wait:
            news = clusters.next_events(cluster, after=after, sleep=sleep)
            found = await polls.wait(news, seconds=wait, otherwise=())
        return schemas.EventList(events=[schemas.Event.model_validate(one) for one in found[-limit:]])

    return routes
