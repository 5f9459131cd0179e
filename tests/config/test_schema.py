"""The JSON Schema that editors get: one for each runtime, all of them closed."""

import json
from typing import Any

import pytest

from supervisord.config.json_schema import schema_json
from supervisord.runtimes.base import RuntimeKind

SCHEMA: dict[str, Any] = json.loads(schema_json())


def of_backends() -> dict[str, dict[str, Any]]:
    """The schema of a backend of each runtime, by its only value of `runtime`."""
    mapping = SCHEMA["properties"]["backends"]["anyOf"][0]
    (choices,) = mapping["patternProperties"].values()
    kinds = [SCHEMA["$defs"][choice["$ref"].rpartition("/")[2]] for choice in choices["oneOf"]]
    return {_runtime(kind)["enum"][0]: kind for kind in kinds}


def _runtime(kind: dict[str, Any]) -> dict[str, Any]:
    runtime: dict[str, Any] = kind["properties"]["runtime"]
    return next(choice for choice in runtime.get("anyOf", [runtime]) if "enum" in choice)


def test_each_runtime_has_its_own() -> None:
    kinds = of_backends()
    assert set(kinds) == {kind.value for kind in RuntimeKind}
    assert [len(_runtime(kind)["enum"]) for kind in kinds.values()] == [1] * len(RuntimeKind)
    # Where nothing is said it is llama.cpp; so no other one fits without its name.
    assert {name for name, kind in kinds.items() if "runtime" not in kind["required"]} == {RuntimeKind.LLAMA_CPP}
    assert kinds["vllm"]["title"] == "a backend of runtime vllm"


@pytest.mark.parametrize(
    ("key", "runtimes"),
    [
        ("gpu_layers", {"llama.cpp"}),
        ("gpu_memory_utilization", {"vllm"}),
        ("command", {"command"}),
        ("url", {"remote"}),
        ("gpus", {"llama.cpp", "vllm", "command"}),
        ("aliases", {"llama.cpp", "vllm", "command", "remote"}),
    ],
)
def test_a_setting_is_in_those_it_applies_to(key: str, runtimes: set[str]) -> None:
    assert {name for name, kind in of_backends().items() if key in kind["properties"]} == runtimes


def test_every_section_is_closed() -> None:
    assert all(kind["additionalProperties"] is False for kind in (SCHEMA, *SCHEMA["$defs"].values()))
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_members_that_are_not_the_file_s_are_refused_by_editors_too() -> None:
    members = SCHEMA["$defs"]["ModelSettings"]["properties"]["set"]["anyOf"][0]["propertyNames"]
    assert members["not"] == {"enum": ["input", "messages", "model", "prompt", "stream"]}
