"""docs/configuration.md and etc/llm-supervisord.yaml tell the truth about the schema: all of it, and nothing else."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from supervisord.config.json_schema import schema_json
from supervisord.config.parse import parse
from supervisord.config.places import Surroundings
from supervisord.runtimes.base import RuntimeKind
from tests.fakes.config_example import BLOCK, COMMENTED, EXAMPLE, uncommented, with_blocks

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"
ROW = re.compile(r"^\| `[a-z]", re.MULTILINE)
AROUND = Surroundings(
    {"CLOUD_KEY": "sk-1", "EDITOR_KEY": "0123456789abcdef"}, "/home/ada", root=False, folder="/etc/llm-supervisord"
)
EVERY = tuple(kind.value for kind in RuntimeKind)


@dataclass(frozen=True)
class Setting:
    """A setting that is no section, with its JSON Schema; `runtime` is empty outside of backends."""

    path: str
    schema: dict[str, Any]
    required: bool
    runtime: str

    @property
    def default(self) -> str:
        value = self.schema.get("default")
        if self.required or value is None:
            return "required" if self.required else ""
        return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def settings() -> Iterator[Setting]:
    schema = json.loads(schema_json())

    def inside(kind: dict[str, Any], path: str, runtime: str) -> Iterator[Setting]:
        for name, value in kind["properties"].items():
            inner, suffix = sections_in(value)
            for section in inner:
                definition = schema["$defs"][section]
                yield from inside(definition, f"{path}{name}{suffix}.", runtime or runtime_of(definition))
            if not inner or suffix == "[]":
                yield Setting(f"{path}{name}", value, name in kind.get("required", []), runtime)

    return inside(schema, "", "")


def runtime_of(kind: dict[str, Any]) -> str:
    runtime = kind["properties"].get("runtime", {})
    choices = [choice["enum"] for choice in runtime.get("anyOf", [runtime]) if "enum" in choice]
    return str(choices[0][0]) if choices else ""


def sections_in(value: dict[str, Any]) -> tuple[list[str], str]:
    """The names of the sections in a setting's schema, with .NAME for a mapping of them and [] for a list."""
    for choice in value.get("anyOf", [value]):
        named = [*choice.get("patternProperties", {}).values(), choice.get("additionalProperties")]
        kinds = [kind for kind in named if isinstance(kind, dict)]
        for inner, suffix in [(choice, ""), (choice.get("items", {}), "[]"), *((kind, ".NAME") for kind in kinds)]:
            found = [one["$ref"].rpartition("/")[2] for one in inner.get("oneOf", [inner]) if "$ref" in one]
            if found:
                return found, suffix
    return [], ""


def rows() -> dict[str, list[Setting]]:
    """The rows of the reference. A setting that reads the same for several runtimes has one."""
    found: dict[tuple[str, str, str], list[Setting]] = {}
    for setting in settings():
        found.setdefault((setting.path, setting.default, setting.schema["description"]), []).append(setting)
    return {row(*cells, tuple(one.runtime for one in same)): same for cells, same in found.items()}


def row(path: str, default: str, description: str, runtimes: tuple[str, ...]) -> str:
    if runtimes == ("",):
        return f"| `{path}` | {default} | {description} |"
    named = {EVERY: "all", tuple(kind for kind in EVERY if kind != RuntimeKind.REMOTE): "all but remote"}
    return f"| `{path}` | {default} | {named.get(runtimes, ', '.join(runtimes))} | {description} |"


def test_the_reference_has_exactly_the_settings_of_the_schema() -> None:
    written = [line for line in DOCUMENT.read_text().splitlines() if ROW.match(line)]
    assert sorted(written) == sorted(rows())


def test_every_setting_has_a_description() -> None:
    assert [one.path for one in settings() if not one.schema.get("description", "").endswith(".")] == []


# --- the example -----------------------------------------------------------------------------------------------------


def backends(text: str) -> int:
    return len(parse(text.encode(), file="example", around=AROUND).backends)


def test_the_example_is_valid_as_it_is() -> None:
    assert backends(EXAMPLE.read_text()) == 1


def test_the_example_is_valid_with_everything_uncommented() -> None:
    specs = parse(uncommented().encode(), file="example", around=AROUND).backends
    assert sorted(spec.runtime for spec in specs) == sorted(RuntimeKind)


@pytest.mark.parametrize("block", list(BLOCK.finditer(EXAMPLE.read_text())), ids=lambda block: block[2].split(":")[0])
def test_the_example_is_valid_with_one_block_uncommented(block: re.Match[str]) -> None:
    text = EXAMPLE.read_text()
    assert backends(text[: block.start()] + with_blocks(block[0]) + text[block.end() :]) in {1, 2}


@pytest.mark.parametrize(
    "match", list(COMMENTED.finditer(with_blocks(EXAMPLE.read_text()))), ids=lambda match: match[2].split(":")[0]
)
def test_the_example_is_valid_with_one_setting_uncommented(match: re.Match[str]) -> None:
    text = with_blocks(EXAMPLE.read_text())
    assert backends(text[: match.start()] + match[1] + match[2] + text[match.end() :]) == len(RuntimeKind)


def test_uncommenting_the_example_changes_no_default() -> None:
    """What the example shows as a default is the default, wherever there is one."""
    shown = in_example()
    for setting in settings():
        default = setting.schema.get("default")
        if (setting.path, setting.runtime) in shown and not setting.required and default is not None:
            assert shown[setting.path, setting.runtime] == default, setting.path


def test_every_setting_is_in_the_example() -> None:
    """One that reads the same for several runtimes is there once at least."""
    shown = in_example()
    for written, same in rows().items():
        path = same[0].path
        if "[]" in path:
            assert re.search(rf"[{{,] ?{path.rpartition('.')[2]}: ", EXAMPLE.read_text()), written
        else:
            assert any((path, one.runtime) in shown for one in same), written


def in_example() -> dict[tuple[str, str], Any]:
    """What the example shows, by path and runtime."""
    document = yaml.safe_load(uncommented())
    found = {}
    for runtime, kind, values in (
        *((backend["runtime"], "backends.NAME.", backend) for backend in document.pop("backends").values()),
        *(("", "models.NAME.", model) for model in document.pop("models").values()),
        *(("", "keys.NAME.", key) for key in document.pop("keys").values()),
        ("", "", document),
    ):
        found |= {(path, runtime): value for path, value in flat(values, kind).items()}
    return found


def flat(values: dict[str, Any], path: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{path}{key}.")
        else:
            found[f"{path}{key}"] = value
    return found
