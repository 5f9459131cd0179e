"""The JSON Schema of the configuration file, for editors."""

import json
from typing import Any

from supervisord.config.fields import FORM
from supervisord.config.schema import RUNTIMES, FileSettings


def schema_json() -> str:
    """The schema as text: each setting with its description, its default as people write it, and its form."""
    schema = FileSettings.model_json_schema(by_alias=True)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "llm-supervisord"}
    for kind in (schema, *schema["$defs"].values()):
        kind["properties"] = {
            name: _property(value, required=name in kind.get("required", []))
            for name, value in kind["properties"].items()
        }
    for runtime, settings in RUNTIMES.items():
        schema["$defs"][settings.__name__]["title"] = f"a backend of runtime {runtime}"
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _property(value: dict[str, Any], *, required: bool) -> dict[str, Any]:
    choices = [dict(choice) for choice in value.get("anyOf", [value])]
    about = {key: value[key] for key in ("description", "default") if key in value}
    for choice in choices:
        form = choice.pop(FORM, None)
        if form:
            about["description"] = f"{about['description']} {form}"
        for key in ("title", *about):
            choice.pop(key, None)
        if "patternProperties" in choice:
            choice["additionalProperties"] = False
    # A key without a value means the default.
    if not required and {"type": "null"} not in choices:
        choices.append({"type": "null"})
    return about | ({"anyOf": choices} if len(choices) > 1 else choices[0])
