"""Where everything is kept. Folders are Zorya's own (0700), or may be passed through by the engines' group (0710)."""

import os
from dataclasses import dataclass
from pathlib import Path

from zorya.core import errors, files, location
from zorya.core.account import Account
from zorya.core.volume import ZONES, Copy


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterFolders:
    """Where one cluster's files are. `data` and `socket` are the engine's, the others Zorya's."""

    root: Path
    data: Path
    conf: Path
    log: Path
    socket: Path
    identities: Path
    """Who may log in, as known when the engine stopped; there only while that is certain."""

    @property
    def inlet(self) -> Path:
        """The socket at which a running engine takes clients' connections from Zorya."""
        return self.socket / "inlet"

    @property
    def given_up(self) -> Path:
        """The folder of the listening socket that the engine gives up for the inlet."""
        return self.socket / "handoff"


@dataclass(frozen=True, slots=True)
class Home:
    """The home folder's layout."""

    root: Path

    @property
    def catalog(self) -> Path:
        """The SQLite file with the clusters' records and events."""
        return self.root / "catalog.db"

    @property
    def usage(self) -> Path:
        """The SQLite file with what clusters have used."""
        return self.root / "usage.db"

    @property
    def token(self) -> Path:
        """The REST API's bearer token."""
        return self.root / "api-token"

    @property
    def run(self) -> Path:
        """Sockets and the lock."""
        return self.root / "run"

    @property
    def scratch(self) -> Path:
        """What is made to be looked at once; emptied when a server starts."""
        return self.run / "scratch"

    @property
    def lock(self) -> Path:
        """Held by the server that has this home."""
        return self.run / "zorya.lock"

    @property
    def api_socket(self) -> Path:
        """The REST API's Unix socket."""
        return self.root / location.API_SOCKET

    @property
    def api_address(self) -> Path:
        """JSON with the REST API's TCP address and the server's pid."""
        return self.run / "api.json"

    @property
    def server_log(self) -> Path:
        """Where a detached server logs."""
        return self.root / location.SERVER_LOG

    @property
    def keeper_log(self) -> Path:
        """Where the keeper says what is wrong."""
        return self.server_log.with_name("keeper.log")

    @property
    def engines(self) -> Path:
        """Copies of engine installations that the engines' account could not reach."""
        return self.root / "engines"

    @property
    def templates(self) -> Path:
        """Initialised empty data folders, one an engine version."""
        return self.root / "templates"

    @property
    def tls(self) -> Path:
        """The certificate authority, and the server's certificate and key."""
        return self.root / "tls"

    @property
    def clusters(self) -> Path:
        """One folder a cluster, named by its id."""
        return self.root / "clusters"

    def of_cluster(self, cluster_id: str) -> Path:
        """Answer the folder of what there is of a cluster once, however many copies its volume has."""
        return self.clusters / cluster_id

    def identities(self, cluster_id: str) -> Path:
        """Answer where it is kept who may log in to a cluster while its engine does not run."""
        return self.of_cluster(cluster_id) / "identities.json"

    def zone_folder(self, cluster_id: str, zone: str, chosen: Path | None) -> Path:
        """Answer where a cluster's new copies in a zone are to be: relative to the home if it is in it.

        `chosen` is the folder that the operator has chosen for the zone, if any.
        """
        if chosen is not None:
            return chosen / cluster_id
        # The first zone's is where volumes of one copy have always been.
        return Path("clusters", cluster_id) if zone == ZONES[0] else Path("zones", zone, cluster_id)

    def of_copy(self, cluster_id: str, copy: Copy) -> ClusterFolders:
        """Answer where a full copy of a cluster's volume is."""
        root = self.root / copy.folder
        return ClusterFolders(
            root=root,
            data=root / "data",
            conf=root / "conf",
            log=root / "log" / "engine.log",
            socket=self.run / (cluster_id if copy.zone == ZONES[0] else f"{cluster_id}-{copy.zone}"),
            identities=self.identities(cluster_id),
        )

    def of_tail(self, copy: Copy) -> Path:
        """Answer where a tail copy has its log."""
        return self.root / copy.folder / "tail"

    def collected(self, copy: Copy) -> Path:
        """Answer where the log is put that a full copy is given before it becomes the primary."""
        return self.root / copy.folder / "collected"

    def mark(self, copy: Copy) -> Path:
        """Answer where a copy keeps which epoch it has joined."""
        return self.root / copy.folder / f"{copy.kind}.json"

    def ensure(self, account: Account) -> None:
        """Make the home and its folders. Idempotent.

        Raises HomeUnusable when the home cannot be made, read, written or reached by the engines' account.
        """
        longest = self.run / "12345678-b" / "handoff" / ".s.PGSQL.65535"
        if len(os.fsencode(longest)) > files.MAX_SOCKET_PATH:
            raise errors.HomeUnusable(
                f"The home {self.root} has too long a path: a Unix socket's may have {files.MAX_SOCKET_PATH} bytes.",
                hint="Choose a home with a shorter path (ZORYA_HOME).",
            )
        passage = 0o710 if account.is_other else 0o700
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.ensure_folder(self.root, mode=passage, group=account)
            for folder in (self.run, self.clusters, self.templates, self.root / "zones"):
                files.ensure_folder(folder, mode=passage, group=account)
            files.ensure_folder(self.engines, mode=0o750 if account.is_other else 0o700, group=account)
            files.ensure_folder(self.server_log.parent, mode=0o700)
            files.ensure_folder(self.tls, mode=0o700)
            files.ensure_folder(self.scratch, mode=0o700)
            probe = self.run / f".writable-{os.getpid()}"
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError as error:
            raise errors.HomeUnusable(
                f"The home {self.root} cannot be used: {error.strerror or error}.",
                hint="Choose another with ZORYA_HOME, or mend this one.",
            ) from error
        self._check_passage(account)

    def empty_scratch(self) -> None:
        """Remove what a server that was killed has left in `scratch`. Only under the home's lock."""
        for left in self.scratch.iterdir():
            files.remove_tree(left)

    def _check_passage(self, account: Account) -> None:
        if not account.is_other:
            return
        for folder in self.root.absolute().parents:
            found = folder.stat()
            passable = (
                found.st_mode & 0o001
                or (found.st_gid == account.gid and found.st_mode & 0o010)
                or (found.st_uid == account.uid and found.st_mode & 0o100)
            )
            if not passable:
                raise errors.HomeUnusable(
                    f"Engines run as the user {account.name}, who cannot pass through {folder} to {self.root}.",
                    hint=f"Choose another home with ZORYA_HOME, or run `chmod o+x {folder}`.",
                )
