"""The OpenAPI document tells the truth: its examples are valid and no route or schema goes without one."""

from types import ModuleType
from typing import Any

import pydantic
import pytest

from api.served import Served
from zorya.api import bodies, schemas, usage


def _models_of(module: ModuleType) -> list[type[pydantic.BaseModel]]:
    return [
        model
        for model in vars(module).values()
        if isinstance(model, type)
        and issubclass(model, pydantic.BaseModel)
        and model.__module__ == module.__name__
        and not model.__name__.startswith("_")
    ]


BODIES = _models_of(bodies)


@pytest.mark.parametrize("model", [*BODIES, *_models_of(schemas), *_models_of(usage)], ids=lambda model: model.__name__)
def test_every_example_is_valid_and_complete(model: type[pydantic.BaseModel]) -> None:
    examples = model.model_json_schema()["examples"]
    assert examples
    for example in examples:
        assert set(example) <= set(model.model_fields)
        read = model.model_validate(example)
        if model not in BODIES:
            assert read.model_dump(mode="json") == example


async def test_every_route_describes_its_parameters_bodies_and_failures(served: Served) -> None:
    document: dict[str, Any] = (await served.unix.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["description"], (method, path)
            assert {"4XX", "5XX"} <= set(operation["responses"]), (method, path)
            assert all("description" in one for one in operation.get("parameters", []) if one["in"] == "query")
    for name, schema in document["components"]["schemas"].items():
        if schema["type"] == "object" and name not in {"HTTPValidationError", "ValidationError"}:
            assert schema["examples"], name
            assert schema["description"], name


async def test_the_document_says_where_a_token_is_needed(served: Served) -> None:
    for api in (served.unix, served.tcp):
        (scheme,) = (await api.get("/openapi.json")).json()["components"]["securitySchemes"].values()
        assert (scheme["scheme"], "The Unix socket asks for none" in scheme["description"]) == ("bearer", True)
