"""What is served and what is said to be served."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from supervisord.api.door import Request, Response
from supervisord.api.openapi import OpenApiDoor, document
from supervisord.api.router import Router
from supervisord.app.tables import public_tables
from supervisord.config.load import defaults
from tests.engine.rig import rig

TOLD: Any = msgspec.json.decode(msgspec.json.encode(document("1.2")))


def inside(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from inside(each)
    elif isinstance(value, list):
        for each in value:
            yield from inside(each)


async def test_the_document_has_every_path_and_method_and_no_other() -> None:
    async with rig() as house:
        served = Router(public_tables(house.supervisor, defaults())).paths
    assert {path.replace("...}", "}"): {method.lower() for method in methods} for path, methods in served.items()} == {
        path: set(operations) for path, operations in TOLD["paths"].items()
    }


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    used = {str(each["$ref"]).removeprefix("#/components/schemas/") for each in inside(TOLD) if "$ref" in each}
    assert used == set(TOLD["components"]["schemas"])


def test_every_operation_names_what_its_path_names_and_how_it_ends() -> None:
    for path, operations in TOLD["paths"].items():
        for operation in operations.values():
            named = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)), path
            assert any(status.startswith("2") for status in operation["responses"]), path
            assert "default" in operation["responses"], path


def test_it_is_served_as_it_is() -> None:
    handler = OpenApiDoor("1.2").table["/openapi.json"]["GET"]
    asked = Request("GET", "/openapi.json", "", "", {}, b"", http_1_1=True, keep_alive=True)
    for _ in range(2):
        answer = handler(asked)
        assert isinstance(answer, Response)
        assert msgspec.json.decode(answer.body) == TOLD
