"""The REST API's client. It speaks through the home's Unix socket, one connection a request.

It uses the standard library's HTTP client, since `zorya url` runs inside `$(...)` and has to start quickly.
"""

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from zorya.cli import wire
from zorya.core import errors, ids, location

READ_TIMEOUT_S = 10.0
"""For requests that the server answers at once."""


class Refused(errors.ZoryaError):
    """The server's error as it came; `code` and `retry_can_help` are the server's."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem["message"], hint=problem["hint"])
        self.code = problem["code"]
        self.retry_can_help = problem["retry_can_help"]


class Api:
    """The server of one home.

    Every method blocks until the server has answered. Each raises Refused when the server says no, ServerUnreachable
    when none answers, and HomeUnusable when this user may not talk to it. Those that change a cluster wait for as long
    as the change takes, and if the caller is interrupted, the change goes on.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._socket_path = home / location.API_SOCKET

    def status(self) -> wire.ServerStatus:
        """Answer what the server is doing."""
        answer: wire.ServerStatus = self._ask("GET", "/v1/status")
        return answer

    def doctor(self) -> list[wire.Finding]:
        """Have the server examine its host."""
        answer: list[wire.Finding] = self._ask("GET", "/v1/doctor", timeout_s=None)["findings"]
        return answer

    def certificate(self) -> wire.ServerCertificate:
        """Answer the server's certificate, and the root where that is Zorya's own."""
        answer: wire.ServerCertificate = self._ask("GET", "/v1/ca")
        return answer

    def renew_certificate(self) -> wire.ServerCertificate:
        """Have the server make a new certificate, and answer it."""
        answer: wire.ServerCertificate = self._ask("POST", "/v1/ca/renew", timeout_s=None)
        return answer

    def stop(self, *, leave_running: bool) -> wire.ServerStatus:
        """Have the server begin to stop, and answer its status as it was before."""
        answer: wire.ServerStatus = self._ask("POST", "/v1/stop", body={"leave_running": leave_running})
        return answer

    def clusters(self) -> list[wire.Cluster]:
        """Answer every cluster, ordered by name."""
        answer: list[wire.Cluster] = self._ask("GET", "/v1/clusters")["clusters"]
        return answer

    def cluster(self, name: str) -> wire.Cluster:
        """Answer one cluster."""
        answer: wire.Cluster = self._ask("GET", _path(name))
        return answer

    def credentials(self, name: str) -> wire.Credentials:
        """Answer what a client needs to connect."""
        answer: wire.Credentials = self._ask("GET", _path(name) + "/credentials")
        return answer

    def create(self, cluster: wire.CreateCluster) -> wire.Cluster:
        """Make a cluster."""
        answer: wire.Cluster = self._ask("POST", "/v1/clusters", body=cluster, timeout_s=None)
        return answer

    def modify(self, name: str, changes: wire.ModifyCluster) -> wire.Cluster:
        """Change a cluster."""
        answer: wire.Cluster = self._ask("PATCH", _path(name), body=changes, timeout_s=None)
        return answer

    def set_capacity(self, name: str, capacity: float) -> wire.Cluster:
        """Give a running cluster this capacity now."""
        body = {"capacity": capacity}
        answer: wire.Cluster = self._ask("POST", _path(name) + "/capacity", body=body, timeout_s=None)
        return answer

    def change_password(self, name: str) -> wire.Credentials:
        """Give the cluster's user a new password."""
        answer: wire.Credentials = self._ask("POST", _path(name) + "/password", timeout_s=None)
        return answer

    def pause(self, name: str, *, force: bool) -> wire.Cluster:
        """Stop the cluster's engine."""
        answer: wire.Cluster = self._ask("POST", _path(name) + "/pause", body={"force": force}, timeout_s=None)
        return answer

    def resume(self, name: str) -> wire.Cluster:
        """Start the cluster's engine."""
        answer: wire.Cluster = self._ask("POST", _path(name) + "/resume", timeout_s=None)
        return answer

    def copies(self, name: str) -> list[wire.Copy]:
        """Answer the copies of the cluster's volume, by zone and kind."""
        answer: list[wire.Copy] = self._ask("GET", _path(name) + "/copies")["copies"]
        return answer

    def verify(self, name: str) -> wire.Verification:
        """Have the cluster's volume verified, and what is damaged repaired."""
        answer: wire.Verification = self._ask("POST", _path(name) + "/verify", timeout_s=None)
        return answer

    def recover(self, name: str, *, accept_data_loss: bool) -> wire.Cluster:
        """Have the cluster go on from what is left of it."""
        body = {"accept_data_loss": accept_data_loss}
        answer: wire.Cluster = self._ask("POST", _path(name) + "/recover", body=body, timeout_s=None)
        return answer

    def delete(self, name: str) -> None:
        """Remove the cluster with its data."""
        self._ask("DELETE", _path(name), timeout_s=None)

    def events(self, cluster: str | None, *, after: int, limit: int, wait_s: float, sleep: bool) -> list[wire.Event]:
        """Answer the newest `limit` events after `after`, oldest first; wait up to `wait_s` when there is none.

        Freezes and thaws are among them, count and end the wait only with `sleep`.
        """
        query: dict[str, str | int | float] = {"after": after, "limit": limit, "wait": wait_s, "sleep": int(sleep)}
        if cluster is not None:
            query["cluster"] = cluster
        path = f"/v1/events?{urlencode(query)}"
        answer: list[wire.Event] = self._ask("GET", path, timeout_s=READ_TIMEOUT_S + wait_s)["events"]
        return answer

    def usage(self, cluster: str | None, *, since: str | None = None, until: str | None = None, by: str) -> wire.Usage:
        """Answer what clusters have used, every one if none is named, between two ISO times.

        From the first of this month if the first is None, until now if the second is.
        """
        given = {"cluster": cluster, "since": since, "until": until, "by": by}
        query = urlencode({key: value for key, value in given.items() if value is not None})
        answer: wire.Usage = self._ask("GET", f"/v1/usage?{query}", timeout_s=None)
        return answer

    def _ask(self, method: str, path: str, *, body: object = None, timeout_s: float | None = READ_TIMEOUT_S) -> Any:
        connection = _UnixConnection(self._socket_path, timeout_s)
        try:
            self._connect(connection)
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
            response = connection.getresponse()
            answer = json.loads(response.read() or "null")
        except TimeoutError as error:
            raise errors.ServerUnreachable(
                f"The Zorya server on {self.home} did not answer within {timeout_s:g} s.", hint="Its log may say why."
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise errors.ServerUnreachable(
                f"The Zorya server on {self.home} went away before it had answered.", hint="`zorya up` starts it again."
            ) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise Refused(answer["error"])
        return answer

    def _connect(self, connection: "_UnixConnection") -> None:
        try:
            connection.connect()
        except PermissionError as error:
            raise errors.HomeUnusable(
                f"You may not use the Zorya server on {self.home}.", hint="Run this as the user that runs the server."
            ) from error
        except OSError as error:
            raise errors.ServerUnreachable(
                f"No Zorya server is up on {self.home}.", hint="Start one with `zorya up`."
            ) from error


class _UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket file rather than to a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _path(name: str) -> str:
    return f"/v1/clusters/{ids.parse_name(name)}"
