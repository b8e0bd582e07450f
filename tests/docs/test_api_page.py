"""docs/api.md has every route, field and error code, and docs/clients.md every SQLSTATE of the gateway."""

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, cast

import pytest
from pydantic import BaseModel

from docs import pages
from zorya.api import app, bodies, failures, guard, schemas, usage
from zorya.api.long_poll import LongPolls
from zorya.control.events import EventKind
from zorya.core import errors
from zorya.core.model import Compute, Status
from zorya.core.volume import CopyKind, CopyState
from zorya.gateway.postgres import pgwire
from zorya.storage.quorum import Health

TEXT = pages.read("docs/api.md")
SECTIONS = {**pages.sections(TEXT, 2), **pages.sections(TEXT, 3)}
_METHODS = "GET|POST|PUT|PATCH|DELETE"


def _openapi() -> dict[str, Any]:
    nobody = cast(Any, None)
    return app.build(nobody, nobody, polls=LongPolls()).openapi()


def test_the_page_has_every_route_and_no_other() -> None:
    routes = {f"{method.upper()} {path}" for path, methods in _openapi()["paths"].items() for method in methods}
    assert {title for title in SECTIONS if re.match(rf"({_METHODS}) ", title)} == routes


def test_every_curl_call_goes_to_a_route() -> None:
    patterns = [re.sub(r"\{\w+\}", "[a-z-]+", path) for path in _openapi()["paths"]]
    called = re.findall(
        r"http://[\w.:]+(/[^\s\"?]*)", "\n".join(b.text for b in pages.blocks(TEXT) if b.language == "sh")
    )
    assert len(called) > 10
    assert [path for path in called if not any(re.fullmatch(pattern, path) for pattern in patterns)] == []


@pytest.mark.parametrize(
    ("section", "schema"),
    [
        ("Cluster", schemas.Cluster),
        ("Volume", schemas.Volume),
        ("Copy", schemas.Copy),
        ("Verification", schemas.Verification),
        ("Operation", schemas.Operation),
        ("Credentials", schemas.Credentials),
        ("Event", schemas.Event),
        ("Server status", schemas.ServerStatus),
        ("Finding", schemas.Finding),
        ("Errors", schemas.Problem),
        ("Scaling", schemas.Scaling),
        ("Load", schemas.Load),
        ("Node", schemas.Node),
        ("ACU", schemas.Acu),
        ("Usage row", usage.UsageRow),
    ],
)
def test_an_object_has_its_fields(section: str, schema: type[BaseModel]) -> None:
    fields = [pages.code(row[0]) for row in pages.rows(SECTIONS[section], "field", "type", "meaning")]
    assert fields == list(schema.model_fields)


def test_the_body_that_makes_a_cluster_has_its_fields_and_defaults() -> None:
    shown = {
        pages.code(name): pages.code(default)
        for name, _, default, _ in pages.rows(SECTIONS["POST /v1/clusters"], "field", "type", "default", "meaning")
    }
    fields = bodies.CreateCluster.model_fields
    assert shown == {
        name: "" if field.is_required() else "null" if field.default is None else str(field.default)
        for name, field in fields.items()
    }


@pytest.mark.parametrize("path", ["/v1/events", "/v1/usage"])
def test_a_query_has_its_parameters_and_defaults(path: str) -> None:
    shown = {
        pages.code(name): default
        for name, default, _ in pages.rows(SECTIONS[f"GET {path}"], "parameter", "default", "meaning")
    }
    parameters = {one["name"]: one["schema"] for one in _openapi()["paths"][path]["get"]["parameters"]}
    assert list(shown) == list(parameters)
    for name, schema in parameters.items():
        if "default" in schema:
            assert shown[name] == json.dumps(schema["default"]).strip('"')


@pytest.mark.parametrize(
    ("section", "field", "kind"),
    [
        ("Cluster", "status", Status),
        ("Cluster", "compute", Compute),
        ("Volume", "health", Health),
        ("Copy", "kind", CopyKind),
        ("Copy", "state", CopyState),
    ],
)
def test_the_page_names_every_state(section: str, field: str, kind: type[StrEnum]) -> None:
    rows = {pages.code(row[0]): row[2] for row in pages.rows(SECTIONS[section], "field", "type", "meaning")}
    assert set(re.findall(r"`(\w+)`", rows[field])) == {state.value for state in kind} - {"deleted"}


def _tree(kind: type[errors.ZoryaError]) -> Iterator[type[errors.ZoryaError]]:
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield below
            yield from _tree(below)


def test_the_page_has_every_error_code_with_its_status() -> None:
    shown = {
        pages.code(code): (int(status), retry)
        for code, status, retry, _ in pages.rows(TEXT, "code", "status", "retry can help", "meaning")
    }
    assert shown == {
        kind.code: (failures.status_of(kind("")), "yes" if kind.retry_can_help else "no")
        for kind in _tree(errors.ZoryaError)
    }


def test_the_page_has_the_apis_own_codes() -> None:
    own = {pages.code(row[0]) for row in pages.rows(TEXT, "code", "status", "meaning")}
    problems = [
        value.code
        for module in (failures, guard)
        for value in vars(module).values()
        if isinstance(value, schemas.Problem)
    ]
    assert own == {*problems, *failures._PLAIN_CODES.values(), "http_error"}


def test_the_clients_page_has_every_sqlstate_of_the_gateway() -> None:
    shown = [pages.code(row[0]) for row in pages.rows(pages.read("docs/clients.md"), "SQLSTATE", "when")]
    assert shown == [state.value for state in pgwire.Sqlstate]


@pytest.mark.parametrize("page", pages.NAMES)
def test_json_examples_parse(page: str) -> None:
    for block in pages.blocks(pages.read(page)):
        if block.language == "json":
            json.loads(block.text)


SHOWN: list[tuple[str, type[BaseModel]]] = [
    ("GET /v1/status", schemas.ServerStatus),
    ("GET /v1/doctor", schemas.FindingList),
    ("POST /v1/clusters", schemas.Cluster),
    ("GET /v1/clusters/{name}", schemas.Failure),
    ("GET /v1/clusters/{name}/credentials", schemas.Credentials),
    ("POST /v1/clusters/{name}/pause", schemas.Failure),
    ("GET /v1/clusters/{name}/copies", schemas.CopyList),
    ("POST /v1/clusters/{name}/verify", schemas.Verification),
    ("GET /v1/events", schemas.EventList),
    ("GET /v1/usage", usage.Usage),
    ("Reaching it", schemas.Failure),
]


@pytest.mark.parametrize(("section", "schema"), SHOWN)
def test_an_example_is_what_the_api_answers(section: str, schema: type[BaseModel]) -> None:
    (example,) = [json.loads(block.text) for block in pages.blocks(SECTIONS[section]) if block.language == "json"]
    assert schema.model_validate(example).model_dump(mode="json", by_alias=True).keys() == example.keys()
    if schema is schemas.Cluster:
        assert example.keys() == schemas.Cluster.model_fields.keys()
    if schema is schemas.Failure:
        assert example["error"].keys() == schemas.Problem.model_fields.keys()
    if schema is schemas.EventList:
        assert {event["kind"] for event in example["events"]} <= {kind.id for kind in EventKind}
