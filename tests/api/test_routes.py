"""What each route answers, for good and for bad requests."""

from dataclasses import asdict, replace

import httpx
import pytest
import structlog

from api.fakes import a_busy_cluster, a_frozen_cluster, a_request
from api.served import Served
from zorya.api import schemas
from zorya.control import modify
from zorya.control.events import EventKind
from zorya.control.view import UNCHANGED, CreateRequest, ModifyRequest
from zorya.core import errors
from zorya.core.model import EngineKind, Mode, WakeOn


def problem_of(response: httpx.Response) -> schemas.Problem:
    return schemas.Failure.model_validate_json(response.content).error


async def test_create_answers_the_cluster_when_only_a_name_is_given(served: Served) -> None:
    response = await served.unix.post("/v1/clusters", json={"name": "Main"})
    assert response.status_code == 201
    cluster = response.json()
    assert cluster["name"] == "main"
    assert cluster["endpoint"] == {"host": "127.0.0.1", "port": 7400}
    assert cluster["created_at"] == "2026-02-03T09:00:00.031000Z"
    assert set(cluster) == set(schemas.CLUSTER_EXAMPLE)


async def test_create_hands_control_every_choice_when_all_are_given(served: Served) -> None:
    body = {
        "name": "a",
        "engine": "postgres",
        "version": "16",
        "min_capacity": 1,
        "max_capacity": 8,
        "mode": "provisioned",
        "capacity": 2.5,
        "pause_after": 60,
        "freeze_after": 0.25,
        "allow": ["10.0.0.0/8", "fd00::/8"],
        "require_tls": True,
        "wake_on": "any",
        "max_clients": 5,
        "copies": 3,
        "port": 7500,
    }
    await served.unix.post("/v1/clusters", json=body)
    assert served.clusters.requests == [
        CreateRequest(
            name="a",
            engine=EngineKind.POSTGRES,
            version="16",
            min_capacity=1.0,
            max_capacity=8.0,
            mode=Mode.PROVISIONED,
            fixed_capacity=2.5,
            pause_after_s=60,
            freeze_after_s=0.25,
            allow=("10.0.0.0/8", "fd00::/8"),
            require_tls=True,
            wake_on=WakeOn.ANY,
            max_clients=5,
            copies=3,
            port=7500,
        )
    ]


@pytest.mark.parametrize(
    ("given", "stored"), [({}, 300), ({"pause_after": None}, 300), ({"pause_after": "never"}, None)]
)
async def test_pause_after_is_the_servers_default_when_it_is_absent(
    served: Served, given: dict[str, object], stored: int | None
) -> None:
    response = await served.unix.post("/v1/clusters", json={"name": "a", **given})
    assert response.json()["pause_after_s"] == stored


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({}, 10.0),
        ({"freeze_after": None}, 10.0),
        ({"freeze_after": "never"}, None),
        ({"freeze_after": 0.01}, 0.01),
        ({"freeze_after": 3}, 3.0),
        ({"freeze_after": "2.5"}, 2.5),
    ],
)
async def test_freeze_after_is_the_servers_default_when_it_is_absent(
    served: Served, given: dict[str, object], stored: float | None
) -> None:
    response = await served.unix.post("/v1/clusters", json={"name": "a", **given})
    assert response.json()["freeze_after_s"] == stored
    assert served.clusters.requests[0].freeze_after_s == stored


async def test_a_cluster_never_sleeps_by_itself_when_the_servers_defaults_say_so(served: Served) -> None:
    served.server.default_pause_after_s = served.server.default_freeze_after_s = None
    cluster = (await served.unix.post("/v1/clusters", json={"name": "a"})).json()
    assert (cluster["pause_after_s"], cluster["freeze_after_s"]) == (None, None)


WRONG_CREATIONS = [
    (b"", "field required"),
    (b"{", "JSON decode error"),
    (b'{"name": 7}', "name: "),
    (b"{}", "name: field required"),
    (b'{"name": "a", "size": 1}', "size: extra inputs are not permitted"),
    (b'{"name": "a", "engine": "oracle"}', "engine: "),
    (b'{"name": "a", "pause_after": 0}', "pause_after: must be a whole number of seconds, at least 1, or 'never'"),
    (b'{"name": "a", "pause_after": true}', "pause_after: must be a whole number"),
    (b'{"name": "a", "freeze_after": 0}', "freeze_after: must be seconds, at least 0.01, or 'never'"),
    (b'{"name": "a", "freeze_after": 0.009}', "freeze_after: must be seconds"),
    (b'{"name": "a", "freeze_after": "soon"}', "freeze_after: must be seconds"),
    (b'{"name": "a", "freeze_after": true}', "freeze_after: must be seconds"),
    (b'{"name": "a", "freeze_after": NaN}', "freeze_after: must be seconds"),
    (b'{"name": "a", "freeze_after": Infinity}', "freeze_after: must be seconds"),
    (b'{"name": "a", "freeze_after": [1]}', "freeze_after: must be seconds"),
    (b'{"name": "a", "min_capacity": NaN}', "min_capacity: "),
    (b'{"name": "a", "max_capacity": "4"}', "max_capacity: input should be a valid number"),
    (b'{"name": "a", "max_capacity": true}', "max_capacity: input should be a valid number"),
    (b'{"name": "a", "mode": "shared"}', "mode: "),
    (b'{"name": "a", "capacity": 2}', "capacity: only a provisioned cluster has a fixed capacity"),
    (b'{"name": "a", "mode": "provisioned", "capacity": Infinity}', "capacity: "),
    (b'{"name": "a", "mode": "provisioned", "capacity": "2"}', "capacity: input should be a valid number"),
    (b'{"name": "a", "copies": 2}', "copies: must be 1, 3 or 6"),
    (b'{"name": "a", "copies": 0}', "copies: must be 1, 3 or 6"),
    (b'{"name": "a", "copies": "6"}', "copies: must be 1, 3 or 6"),
    (b'{"name": "a", "copies": true}', "copies: must be 1, 3 or 6"),
    (b'{"name": "a", "copies": 3.0}', "copies: must be 1, 3 or 6"),
    (b'{"name": "a", "copies": NaN}', "copies: must be 1, 3 or 6"),
    (b'{"name": "a", "copies": [6]}', "copies: must be 1, 3 or 6"),
    (b'{"name": "a", "port": 70000}', "port: "),
    (b'{"name": "\\ud800"}', "cannot be a cluster name"),
    (b'{"name": "-a"}', "'-a' cannot be a cluster name"),
]


async def test_create_is_refused_in_words_when_the_body_is_wrong(served: Served) -> None:
    for body, told in WRONG_CREATIONS:
        response = await served.unix.post("/v1/clusters", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 400, body
        assert told.lower() in problem_of(response).message.lower()
    assert served.clusters.all() == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidInput("No."), 400),
        (errors.ClusterNotFound("No."), 404),
        (errors.PortInUse("No."), 409),
        (errors.EngineMissing("No."), 500),
        (errors.DiskFull("No."), 507),
        (errors.StartFailed("No.", hint="See the log.", client_message="Hidden."), 503),
    ],
)
async def test_an_error_becomes_its_status_when_control_raises_it(
    served: Served, error: errors.ZoryaError, status: int
) -> None:
    served.clusters.refusals["a"] = error
    response = await served.unix.post("/v1/clusters", json={"name": "a"})
    assert response.status_code == status
    assert problem_of(response) == schemas.Problem.of(error)


async def test_a_bug_is_logged_once_and_not_shown_when_a_handler_fails(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.clusters.refusals["a"] = RuntimeError("the password is hunter2")
    with structlog.testing.capture_logs() as logged:
        response = await served.unix.post("/v1/clusters", json={"name": "a"})
    assert response.status_code == 500
    assert problem_of(response).code == "internal_error"
    assert "hunter2" not in response.text
    assert [(entry["event"], entry["path"]) for entry in logged] == [("request failed", "/v1/clusters")]
    assert caplog.records == []


NOT_THERE = [
    ("GET", "/v1/nothing", 404, "not_found"),
    ("GET", "/v1/clusters/", 404, "not_found"),
    ("PUT", "/v1/clusters/main", 405, "method_not_allowed"),
    ("POST", "/v1/clusters/main/password", 404, "cluster_not_found"),
    ("GET", "/v1/clusters/main/capacity", 405, "method_not_allowed"),
    ("GET", "/v1/metrics", 404, "not_found"),
    ("POST", "/metrics", 405, "method_not_allowed"),
    ("GET", "/v1/clusters/main", 404, "cluster_not_found"),
    ("DELETE", "/v1/clusters/main", 404, "cluster_not_found"),
    ("GET", "/v1/clusters/main/credentials", 404, "cluster_not_found"),
    ("POST", "/v1/clusters/main/pause", 404, "cluster_not_found"),
    ("POST", "/v1/clusters/main/resume", 404, "cluster_not_found"),
    ("GET", "/v1/clusters/main/copies", 404, "cluster_not_found"),
    ("POST", "/v1/clusters/main/verify", 404, "cluster_not_found"),
    ("POST", "/v1/clusters/main/recover", 404, "cluster_not_found"),
    ("GET", "/v1/clusters/main/verify", 405, "method_not_allowed"),
    ("GET", "/v1/clusters/main/recover", 405, "method_not_allowed"),
    ("GET", f"/v1/events?after={2**63}", 400, "invalid_input"),
    ("GET", "/v1/events?wait=61", 400, "invalid_input"),
    ("GET", "/v1/events?limit=0", 400, "invalid_input"),
    ("GET", "/v1/events?sleep=deeply", 400, "invalid_input"),
]


async def test_the_error_form_is_kept_when_nothing_is_there(served: Served) -> None:
    for method, path, status, code in NOT_THERE:
        response = await served.unix.request(method, path)
        assert (response.status_code, problem_of(response).code) == (status, code), (method, path)


async def test_pause_is_refused_when_sessions_are_open_and_not_forced(served: Served) -> None:
    served.clusters.put(a_busy_cluster("main"))
    refused = await served.unix.post("/v1/clusters/main/pause")
    assert refused.status_code == 409
    assert problem_of(refused).retry_can_help
    forced = await served.unix.post("/v1/clusters/main/pause", json={"force": True})
    assert forced.json()["compute"] == "stopped"


async def test_a_cluster_is_shown_resumed_and_deleted_when_it_exists(served: Served) -> None:
    await served.clusters.create(a_request("main"))
    assert (await served.unix.get("/v1/clusters/MAIN")).json()["compute"] == "stopped"
    assert (await served.unix.post("/v1/clusters/main/resume")).json()["engine_pid"] == 77
    assert [cluster["name"] for cluster in (await served.unix.get("/v1/clusters")).json()["clusters"]] == ["main"]
    deleted = await served.unix.delete("/v1/clusters/main")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await served.unix.get("/v1/clusters")).json() == {"clusters": []}


async def test_a_frozen_cluster_shows_its_sessions_and_memory(served: Served) -> None:
    served.clusters.put(a_frozen_cluster("cold"))
    cluster = (await served.unix.get("/v1/clusters/cold")).json()
    assert (cluster["compute"], cluster["capacity"], cluster["sessions"]) == ("frozen", 0.0, 2)
    assert (cluster["freeze_after_s"], cluster["resident_bytes"]) == (0.05, 5_347_738)


async def test_a_cluster_is_changed_only_where_the_body_says_so(served: Served) -> None:
    await served.clusters.create(a_request("main"))
    body = {"allow": ["10.0.0.0/8"], "require_tls": True, "max_clients": "none", "pause_after": "never"}
    response = await served.unix.patch("/v1/clusters/MAIN", json=body)
    assert response.status_code == 200
    cluster = response.json()
    assert (cluster["allow"], cluster["require_tls"], cluster["pause_after_s"]) == (["10.0.0.0/8"], True, None)
    assert served.clusters.modifications == [
        ModifyRequest(
            min_capacity=UNCHANGED,
            max_capacity=UNCHANGED,
            mode=UNCHANGED,
            fixed_capacity=UNCHANGED,
            allow=("10.0.0.0/8",),
            require_tls=True,
            wake_on=UNCHANGED,
            max_clients=None,
            copies=UNCHANGED,
            pause_after_s=None,
            freeze_after_s=UNCHANGED,
        )
    ]
    await served.unix.patch("/v1/clusters/main", json={"wake_on": "any", "max_clients": 3, "freeze_after": 0.5})
    cluster = (await served.unix.get("/v1/clusters/main")).json()
    assert (cluster["wake_on"], cluster["max_clients"], cluster["freeze_after_s"]) == ("any", 3, 0.5)
    assert cluster["require_tls"]
    assert (await served.unix.patch("/v1/clusters/shop", json={})).status_code == 404


WRONG_CHANGES: list[object] = [
    {"name": "other"},
    {"allow": []},
    {"allow": "10.0.0.0/8"},
    {"allow": [10]},
    {"require_tls": "yes"},
    {"wake_on": "nobody"},
    {"max_clients": 0},
    {"max_clients": "many"},
    {"max_clients": True},
    {"pause_after": 0},
    {"freeze_after": 0},
    {"min_capacity": "1"},
    {"max_capacity": True},
    {"max_capacity": [4]},
    {"mode": "shared"},
    {"capacity": {}},
    {"mode": "serverless", "capacity": 2},
    {"copies": 4},
    {"copies": True},
    {"copies": "3"},
    {"copies": "none"},
]


async def test_nothing_is_changed_when_the_body_is_wrong(served: Served) -> None:
    await served.clusters.create(a_request("main"))
    for body in WRONG_CHANGES:
        response = await served.unix.patch("/v1/clusters/main", json=body)
        assert (response.status_code, problem_of(response).code) == (400, "invalid_input"), body
    assert served.clusters.modifications == []


async def test_limits_and_mode_are_changed_both_ways(served: Served) -> None:
    await served.clusters.create(a_request("main"))

    async def change(**body: object) -> tuple[object, ...]:
        cluster = (await served.unix.patch("/v1/clusters/main", json=body)).json()
        return tuple(cluster[field] for field in ("mode", "min_capacity", "max_capacity", "fixed_capacity"))

    assert await change(min_capacity=1, max_capacity=8.5) == ("serverless", 1.0, 8.5, None)
    assert await change(mode="provisioned", capacity=2) == ("provisioned", 1.0, 8.5, 2.0)
    assert await change(capacity=3) == ("provisioned", 1.0, 8.5, 3.0)
    assert await change(mode="serverless") == ("serverless", 1.0, 8.5, None)
    assert served.clusters.modifications[1].mode is Mode.PROVISIONED
    assert served.clusters.modifications[1].fixed_capacity == 2.0


async def test_a_capacity_that_is_set_is_answered_with_its_reason(served: Served) -> None:
    served.clusters.put(a_busy_cluster("main"))
    cluster = (await served.unix.post("/v1/clusters/MAIN/capacity", json={"capacity": 2.5})).json()
    assert cluster["capacity"] == 2.5
    assert cluster["last_scaling"] == {
        "at": "2026-02-03T09:00:00.031000Z",
        "from_acu": 1.5,
        "to_acu": 2.5,
        "part": "hand",
        "reason": "It was set by hand.",
        "took_s": 0.0031,
    }


WRONG_CAPACITIES: list[tuple[object, int, str]] = [
    ({}, 400, "invalid_input"),
    ({"capacity": None}, 400, "invalid_input"),
    ({"capacity": "2"}, 400, "invalid_input"),
    ({"capacity": True}, 400, "invalid_input"),
    ({"capacity": 2, "for": 60}, 400, "invalid_input"),
    ({"capacity": 0.75}, 400, "invalid_input"),
    ({"capacity": 2}, 503, "not_ready"),
]


async def test_a_capacity_is_refused_when_it_is_none_or_the_cluster_is_stopped(served: Served) -> None:
    await served.clusters.create(a_request("main"))
    for body, status, code in WRONG_CAPACITIES:
        response = await served.unix.post("/v1/clusters/main/capacity", json=body)
        assert (response.status_code, problem_of(response).code) == (status, code), body
    assert served.clusters.get("main").capacity == 0


@pytest.mark.parametrize("given", [{}, {"copies": None}])
async def test_the_server_chooses_the_number_of_copies_when_it_is_absent(
    served: Served, given: dict[str, object]
) -> None:
    await served.unix.post("/v1/clusters", json={"name": "a", **given})
    assert served.clusters.requests[0].copies is None


async def test_a_cluster_shows_its_volume_and_where_readers_go(served: Served) -> None:
    await served.clusters.create(a_request("main"))
    cluster = (await served.unix.get("/v1/clusters/main")).json()
    assert cluster["volume"] == {
        "copies": 6,
        "current": 6,
        "needed": 4,
        "health": "whole",
        "reason": "All 6 copies are current.",
        "epoch": 1,
        "primary": "a_full",
    }
    assert (cluster["reader_endpoint"], cluster["reader_problem"]) == ({"host": "127.0.0.1", "port": 7500}, "")
    served.clusters.put(a_busy_cluster("busy"))
    assert (await served.unix.get("/v1/clusters/busy")).json()["reader_problem"] == "Port 7501 is taken."


async def test_the_number_of_copies_is_changed_and_nothing_else(served: Served) -> None:
    await served.clusters.create(a_request("main"))
    cluster = (await served.unix.patch("/v1/clusters/main", json={"copies": 1})).json()
    assert (cluster["volume"]["copies"], cluster["volume"]["needed"], cluster["reader_endpoint"]) == (1, 1, None)
    assert served.clusters.modifications == [replace(modify.NOTHING, copies=1)]
    assert (await served.unix.patch("/v1/clusters/main", json={"copies": 6})).json()["volume"]["copies"] == 6


async def test_copies_are_answered_with_positions_as_postgresql_writes_them(served: Served) -> None:
    await served.clusters.create(a_request("hurt"))
    copies = (await served.unix.get("/v1/clusters/HURT/copies")).json()["copies"]
    assert [one["name"] for one in copies] == ["a_full", "a_tail", "b_full", "b_tail", "c_full", "c_tail"]
    assert [one["name"] for one in copies if one["is_primary"]] == ["c_full"]
    assert copies[0] == {
        "name": "a_full",
        "zone": "a",
        "kind": "full",
        "is_primary": False,
        "state": "current",
        "reason": "",
        "position": "0/1A2B3C4",
        "lag_bytes": 0,
        "lag_s": 0.0,
        "progress": None,
        "verified_at": "2026-02-03T09:00:00.031000Z",
        "folder": f"/zones/a/{served.clusters.get('hurt').id}",
    }
    building, behind = copies[2], copies[3]
    assert (building["state"], building["progress"], building["position"]) == ("building", 0.427, None)
    assert (building["lag_bytes"], building["lag_s"], building["verified_at"]) == (None, None, None)
    assert (behind["state"], behind["position"], behind["lag_bytes"]) == ("behind", "0/19E1FE4", 300_000)


async def test_a_position_beyond_four_gibibytes_has_both_its_halves(served: Served) -> None:
    await served.clusters.create(a_request("main"))
    (view, *_) = served.clusters.copies("main")
    assert schemas.Copy.model_validate(replace(view, position=(0x2A << 32) + 0xB)).position == "2A/B"
    assert schemas.Copy.model_validate(replace(view, position=0)).position == "0/0"


@pytest.mark.parametrize(
    ("name", "damaged", "repaired"),
    [
        ("main", [], []),
        ("hurt", ["Copy b_full: 1 of 1412 pages has a wrong checksum."], ["b_full"]),
        ("gone", ["Copy a_full is not there.", "Copy a_tail is not there."], ["a_tail"]),
    ],
)
async def test_a_verification_is_answered_with_what_was_damaged_and_repaired(
    served: Served, name: str, damaged: list[str], repaired: list[str]
) -> None:
    await served.clusters.create(a_request(name))
    found = (await served.unix.post(f"/v1/clusters/{name}/verify")).json()
    assert found == {"copies": 6, "damaged": damaged, "repaired": repaired, "took_s": 12.4}


async def test_a_verification_is_refused_when_the_cluster_is_not_ready(served: Served) -> None:
    served.clusters.put(a_busy_cluster("busy"))
    refused = await served.unix.post("/v1/clusters/busy/verify")
    assert (refused.status_code, problem_of(refused).code) == (503, "not_ready")


async def test_a_cluster_is_recovered_when_the_loss_is_accepted(served: Served) -> None:
    await served.clusters.create(a_request("gone"))
    cluster = (await served.unix.post("/v1/clusters/gone/recover", json={"accept_data_loss": True})).json()
    assert (cluster["compute"], cluster["volume"]["epoch"], cluster["volume"]["health"]) == ("running", 3, "waiting")


WRONG_RECOVERIES: list[object] = [
    {"accept_data_loss": False},
    {"accept_data_loss": None},
    {"accept_data_loss": "true"},
    {"accept_data_loss": 1},
    {"accept": True},
    {},
    [True],
]


async def test_nothing_is_recovered_when_the_loss_is_not_accepted(served: Served) -> None:
    await served.clusters.create(a_request("gone"))
    assert problem_of(await served.unix.post("/v1/clusters/gone/recover")).code == "invalid_input"
    for body in WRONG_RECOVERIES:
        refused = await served.unix.post("/v1/clusters/gone/recover", json=body)
        assert (refused.status_code, problem_of(refused).code) == (400, "invalid_input"), body
    assert served.clusters.get("gone").volume.health == "lost"


async def test_a_recovery_is_refused_when_enough_copies_are_left(served: Served) -> None:
    await served.clusters.create(a_request("main"))
    refused = await served.unix.post("/v1/clusters/main/recover", json={"accept_data_loss": True})
    assert (refused.status_code, problem_of(refused).code) == (409, "conflict")


async def test_a_changed_password_is_answered(served: Served) -> None:
    await served.clusters.create(a_request("main"))
    changed = (await served.unix.post("/v1/clusters/main/password")).json()
    assert changed["password"] == "changed-main"
    assert changed == (await served.unix.get("/v1/clusters/main/credentials")).json()


async def test_credentials_are_disclosed_when_asked_for(served: Served) -> None:
    await served.clusters.create(a_request("main"))
    assert (await served.unix.get("/v1/clusters/main/credentials")).json() == {
        "username": "zorya",
        "password": "secret-main",
        "database": "main",
        "endpoint": {"host": "127.0.0.1", "port": 7400},
        "url": "postgresql://zorya:secret-main@127.0.0.1:7400/main",
    }


async def test_status_counts_clusters_when_there_are_some(served: Served) -> None:
    await served.clusters.create(a_request("main"))
    served.clusters.put(a_busy_cluster("busy"))
    served.clusters.put(a_frozen_cluster("cold"))
    status = (await served.unix.get("/v1/status")).json()
    assert status["clusters"] == {"stopped": 1, "running": 1, "frozen": 1}
    assert status["sessions"] == 3
    assert status["api_port"] == served.server.api_port
    assert status["node"] == {"capacity": 8.0, "allotted": 1.5, "cores": 2.0, "memory_bytes": 16 * 2**30}
    assert status["acu"] == {"memory_bytes": 2 * 2**30, "cores": 0.25}


async def test_doctor_answers_what_the_server_found(served: Served) -> None:
    findings = (await served.unix.get("/v1/doctor")).json()["findings"]
    assert findings == [asdict(one) for one in served.server.findings]


async def test_stop_is_accepted_and_passed_on_when_asked_twice(served: Served) -> None:
    assert (await served.unix.post("/v1/stop")).status_code == 202
    assert (await served.unix.post("/v1/stop")).status_code == 202
    assert served.server.stopping.is_set()
    assert not served.server.left_running


@pytest.mark.parametrize("left", [True, False])
async def test_stop_leaves_engines_running_when_the_body_says_so(served: Served, left: bool) -> None:
    served.clusters.put(a_busy_cluster("busy"))
    response = await served.unix.post("/v1/stop", json={"leave_running": left})
    assert response.status_code == 202
    assert response.json()["clusters"] == {"running": 1}
    assert served.server.stopping.is_set()
    assert served.server.left_running == left


@pytest.mark.parametrize("body", [{"leave_running": "yes"}, {"leave_running": 1}, {"leave": True}, [True]])
async def test_nothing_is_stopped_when_the_body_is_wrong(served: Served, body: object) -> None:
    response = await served.unix.post("/v1/stop", json=body)
    assert response.status_code == 400
    assert problem_of(response).code == "invalid_input"
    assert not served.server.stopping.is_set()


async def test_events_are_the_newest_in_order_when_there_are_more_than_the_limit(served: Served) -> None:
    for number in range(4):
        await served.clusters.happen("main", f"Event {number}.")
    await served.clusters.happen("other", "Elsewhere.")
    response = await served.unix.get("/v1/events", params={"cluster": "main", "limit": 2, "after": 10})
    assert [event["message"] for event in response.json()["events"]] == ["Event 2.", "Event 3."]
    assert (await served.unix.get("/v1/events", params={"after": 50})).json() == {"events": []}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, ["It froze.", "It thawed."]),
        ({"sleep": True}, ["It froze.", "It thawed."]),
        ({"sleep": False}, ["First.", "Second."]),
    ],
)
async def test_freezes_and_thaws_are_among_the_events_unless_they_are_not_wanted(
    served: Served, asked: dict[str, bool], told: list[str]
) -> None:
    await served.clusters.happen("main", "First.")
    await served.clusters.happen("main", "Second.")
    await served.clusters.happen("main", "It froze.", EventKind.FROZEN)
    await served.clusters.happen("main", "It thawed.", EventKind.THAWED)
    response = await served.unix.get("/v1/events", params={"limit": 2, **asked})
    assert [event["message"] for event in response.json()["events"]] == told
