"""docs/configuration.md and etc/llm-supervisord.yaml tell the truth about the schema: all of it, and nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from supervisord.config.json_schema import schema_json
from supervisord.config.parse import parse
from supervisord.config.places import Surroundings

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "configuration.md"
EXAMPLE = ROOT / "etc" / "llm-supervisord.yaml"

COMMENTED = re.compile(r"^( *)#([^ ].*)$", re.MULTILINE)
ROW = re.compile(r"^\| `[a-z]", re.MULTILINE)
AROUND = Surroundings({}, "/home/ada", root=False, folder="/etc/llm-supervisord")


def settings() -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Path, JSON Schema and whether it is required, of every setting that is no section."""
    schema = json.loads(schema_json())

    def inside(kind: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
        for name, value in kind["properties"].items():
            inner, suffix = section_in(value)
            if inner is not None:
                yield from inside(schema["$defs"][inner], f"{path}{name}{suffix}.")
            if inner is None or suffix == "[]":
                yield f"{path}{name}", value, name in kind.get("required", [])

    return inside(schema, "")


def section_in(value: dict[str, Any]) -> tuple[str | None, str]:
    """The name of the section in a setting's schema, with .NAME for a mapping of them and [] for a list."""
    for choice in value.get("anyOf", [value]):
        patterns = list(choice.get("patternProperties", {}).values())
        for inner, suffix in [(choice, ""), (choice.get("items", {}), "[]"), *((p, ".NAME") for p in patterns)]:
            if "$ref" in inner:
                return inner["$ref"].rpartition("/")[2], suffix
    return None, ""


def row(path: str, value: dict[str, Any], required: bool) -> str:
    default = value.get("default")
    shown = (
        "required"
        if required
        else ""
        if default is None
        else f"`{default if isinstance(default, str) else json.dumps(default)}`"
    )
    return f"| `{path}` | {shown} | {value['description']} |"


def test_the_reference_has_exactly_the_settings_of_the_schema() -> None:
    document = DOCUMENT.read_text()
    written = [line for line in document.splitlines() if ROW.match(line)]
    assert sorted(written) == sorted(row(*setting) for setting in settings())


def test_every_setting_has_a_description() -> None:
    assert [path for path, value, _ in settings() if not value.get("description", "").endswith(".")] == []


def uncommented() -> str:
    return COMMENTED.sub(r"\1\2", EXAMPLE.read_text())


def test_the_example_is_valid_as_it_is() -> None:
    assert len(parse(EXAMPLE.read_bytes(), file="example", around=AROUND).backends) == 1


def test_the_example_is_valid_with_everything_uncommented() -> None:
    assert len(parse(uncommented().encode(), file="example", around=AROUND).backends) == 1


@pytest.mark.parametrize(
    "match", list(COMMENTED.finditer(EXAMPLE.read_text())), ids=lambda match: match[2].split(":")[0]
)
def test_the_example_is_valid_with_one_setting_uncommented(match: re.Match[str]) -> None:
    text = EXAMPLE.read_text()
    changed = text[: match.start()] + match[1] + match[2] + text[match.end() :]
    assert len(parse(changed.encode(), file="example", around=AROUND).backends) == 1


def test_uncommenting_the_example_changes_no_default() -> None:
    """What the example shows as a default is the default, wherever there is one."""
    as_it_is = flat(yaml.safe_load(uncommented()))
    for path, value, required in settings():
        written = as_it_is.get(path.replace("NAME", "small"))
        if not required and value.get("default") is not None:
            assert written == value["default"], path


def test_every_setting_is_in_the_example() -> None:
    known = flat(yaml.safe_load(uncommented()))
    wanted = [path.replace("NAME", "small") for path, _, _ in settings() if "[]" not in path]
    assert sorted(known) == sorted(wanted)
    for key in ("kv", "context", "gpu_layers"):
        assert f"{{{key}: " in EXAMPLE.read_text()


def flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{path}{key}.")
        else:
            found[f"{path}{key}"] = value
    return found
