"""TLS by real engines: who may speak which version, and certificates that change under open sessions."""

import asyncio
import contextlib
import os
import socket
import ssl
import stat
import struct
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from certificates import new_tls
from engines.clusters import Cluster
from waiting import wait_until
from zorya.core.account import Account
from zorya.engines.base import TlsFiles
from zorya.engines.postgres import certificate, configuration, installations

SSL_REQUEST = struct.pack("!II", 8, 80877103)

VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
NAMES = {"1.0": "TLSv1", "1.1": "TLSv1.1", "1.2": "TLSv1.2", "1.3": "TLSv1.3"}


def der(tls: TlsFiles) -> bytes:
    return ssl.PEM_cert_to_DER_cert(tls.certificate)


@contextlib.contextmanager
def handshaken(cluster: Cluster, version: str | None = None, *, direct: bool = False) -> Iterator[ssl.SSLSocket]:
    """Connect and do the handshake, with this version of TLS and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = context.maximum_version = VERSIONS[version]
    with socket.create_connection((cluster.address.host, cluster.address.port), timeout=20) as plain:
        if direct:
            context.set_alpn_protocols(["postgresql"])
        else:
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
        with context.wrap_socket(plain) as client:
            yield client


def shown(cluster: Cluster) -> bytes | None:
    """Answer the certificate that a new connection is shown."""
    with handshaken(cluster) as client:
        return client.getpeercert(binary_form=True)


def change(cluster: Cluster, tls: TlsFiles) -> None:
    cluster.instance = replace(cluster.instance, tls=tls)
    asyncio.run(cluster.engine.write_configuration(cluster.instance))
    cluster.reload()


@pytest.mark.parametrize("oldest", list(VERSIONS))
def test_handshake_succeeds_with_the_oldest_version_that_is_allowed_and_newer_ones(
    cluster: Cluster, oldest: str
) -> None:
    cluster.start(new_tls(min_version=oldest))
    spoken = []
    for version in VERSIONS:
        try:
            with handshaken(cluster, version) as client:
                assert client.version() == NAMES[version]
                spoken.append(version)
        except (ssl.SSLError, ConnectionResetError):
            continue
    assert spoken == [version for version in VERSIONS if version >= oldest]


def test_no_session_is_dropped_and_newcomers_see_the_new_certificate_when_it_is_renewed(cluster: Cluster) -> None:
    old, new = new_tls(), new_tls()
    cluster.start(old)
    with contextlib.ExitStack() as cleanup:
        sessions = [cleanup.enter_context(cluster.connect(sslmode="require")) for _ in range(20)]
        assert shown(cluster) == der(old)
        change(cluster, new)
        wait_until(lambda: shown(cluster) == der(new), "newcomers see the new certificate")
        for session in sessions:
            row = session.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
            assert row == (True,)
        cluster.connect(sslmode="require").close()


def test_old_certificate_stays_when_the_new_one_does_not_fit_its_key_until_one_does(cluster: Cluster) -> None:
    old, new = new_tls(), new_tls()
    cluster.start(old)
    mark = cluster.log_mark()
    # As if the writer had been ended between the two.
    key = cluster.folders.conf / configuration.KEY_FILE
    key.write_text(new.key.value)
    cluster.reload()
    wait_until(lambda: "SSL configuration was not reloaded" in cluster.log(mark), "the engine has looked at them")
    assert shown(cluster) == der(old)
    change(cluster, new)
    wait_until(lambda: shown(cluster) == der(new), "newcomers see the new certificate")


def test_engine_of_the_newest_kind_takes_clients_that_begin_with_the_handshake(cluster: Cluster) -> None:
    tls = new_tls()
    cluster.start(tls)
    is_offered = cluster.engine.speaks_direct_tls(cluster.instance.installation)
    assert is_offered == (cluster.major >= 17)
    if is_offered:
        with handshaken(cluster, direct=True) as client:
            assert client.selected_alpn_protocol() == "postgresql"
            assert client.getpeercert(binary_form=True) == der(tls)
    else:
        with pytest.raises(OSError), handshaken(cluster, direct=True):
            pass


def test_engine_refuses_tls_and_keeps_no_key_when_there_is_no_certificate(cluster: Cluster) -> None:
    cluster.start(new_tls())
    cluster.stop()
    cluster.start()
    assert not list(cluster.folders.conf.glob("server.*"))
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        cluster.connect(sslmode="require")
    cluster.connect(sslmode="prefer").close()


def test_engine_starts_without_tls_when_its_installation_has_none(cluster: Cluster) -> None:
    able = cluster.instance
    cluster.instance = replace(able, installation=replace(able.installation, speaks_tls=False))
    try:
        assert not cluster.engine.speaks_tls(cluster.instance.installation)
        assert not cluster.engine.speaks_direct_tls(cluster.instance.installation)
        cluster.start(new_tls())
        with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
            cluster.connect(sslmode="require")
    finally:
        cluster.instance = able


def test_key_can_be_read_by_the_engine_and_zorya_alone(cluster: Cluster) -> None:
    cluster.start(new_tls())
    key = (cluster.folders.conf / configuration.KEY_FILE).stat()
    assert key.st_uid == os.geteuid()
    if cluster.instance.account.is_other:
        assert (stat.S_IMODE(key.st_mode), key.st_gid) == (0o640, cluster.instance.account.gid)
    else:
        assert stat.S_IMODE(key.st_mode) == 0o600


def test_key_can_be_read_by_its_owner_alone_when_the_engine_runs_as_the_same_user(tmp_path: Path) -> None:
    certificate.write(tmp_path, new_tls(), Account(name="me", uid=os.geteuid(), gid=os.getegid()))
    assert stat.S_IMODE((tmp_path / configuration.KEY_FILE).stat().st_mode) == 0o600


def test_pair_is_replaced_whole_and_not_written_again_when_it_is_the_same(tmp_path: Path) -> None:
    me = Account(name="me", uid=os.geteuid(), gid=os.getegid())
    old, new = new_tls(), new_tls()
    certificate.write(tmp_path, old, me)
    inodes = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    assert set(inodes) == {"server.crt", "server.key"}
    certificate.write(tmp_path, old, me)
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir()} == inodes
    # Half of it has come into its place.
    (tmp_path / "server.key").write_text(new.key.value)
    (tmp_path / "server.crt.new").write_text("left")
    certificate.write(tmp_path, new, me)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "server.crt": new.certificate,
        "server.key": new.key.value,
    }


def test_settings_show_no_key(cluster: Cluster) -> None:
    tls = new_tls()
    cluster.instance = replace(cluster.instance, tls=tls)
    assert tls.key.value not in repr(cluster.instance)


def test_installations_of_this_host_are_found_to_speak_tls() -> None:
    assert {one.speaks_tls for one in installations.find(None)} == {True}


@pytest.mark.parametrize(
    ("answer", "expected"), [("echo OpenSSL", True), ("echo", False), ("exit 1", False), ("kill -9 $$", False)]
)
def test_installation_speaks_tls_when_its_engine_names_a_library(tmp_path: Path, answer: str, expected: bool) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("postgres", "initdb"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "postgres (PostgreSQL) 16.3" && exit\n{answer}\n')
        program.chmod(0o755)
    found = installations.read(tmp_path, "setting")
    assert found is not None
    assert found.speaks_tls is expected
