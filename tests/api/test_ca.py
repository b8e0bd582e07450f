"""The routes of the certificate."""

from dataclasses import replace

from api.served import Served
from zorya.api import schemas


async def test_the_certificate_is_shown_with_its_root(served: Served) -> None:
    answer = (await served.unix.get("/v1/ca")).json()
    assert answer == {
        "root_pem": served.server.certificate.root_pem,
        "root_fingerprint": "4B",
        "root_not_after": "2036-02-03T09:00:00.031000Z",
        "fingerprint": "E7",
        "not_after": "2026-03-20T09:00:00.031000Z",
        "names": ["*.zorya.localhost", "localhost"],
        "source": "Zorya's own authority",
        "problem": "",
    }


async def test_a_renewal_answers_the_new_certificate(served: Served) -> None:
    response = await served.unix.post("/v1/ca/renew")
    assert response.status_code == 200
    assert response.json()["fingerprint"] == "E8"
    assert (await served.unix.get("/v1/ca")).json() == response.json()


async def test_an_operators_certificate_has_no_root_and_is_not_renewed(served: Served) -> None:
    served.server.certificate = replace(
        served.server.certificate, root_pem=None, root_fingerprint=None, root_not_after=None, source="/etc/ssl/db.pem"
    )
    answer = (await served.unix.get("/v1/ca")).json()
    assert answer["root_pem"] is answer["root_fingerprint"] is answer["root_not_after"] is None
    assert answer["source"] == "/etc/ssl/db.pem"
    response = await served.unix.post("/v1/ca/renew")
    assert response.status_code == 409
    assert schemas.Failure.model_validate_json(response.content).error.code == "conflict"


async def test_the_certificate_is_not_for_those_without_the_token(served: Served) -> None:
    assert (await served.tcp.get("/v1/ca", headers={"Authorization": ""})).status_code == 401
    assert (await served.tcp.post("/v1/ca/renew", headers={"Authorization": ""})).status_code == 401
