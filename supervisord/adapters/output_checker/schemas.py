"""JSON Schema by jsonschema: draft 2020-12 unless a schema names another. Nothing is ever fetched."""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import jsonschema
import referencing
import referencing.exceptions
from jsonschema.protocols import Validator
from referencing.jsonschema import DRAFT202012, Schema, specification_with

from supervisord.core.output_forms import Json

_DEFAULT = jsonschema.Draft202012Validator
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")

_TOO_DEEP = "it is nested too deeply"

REMEMBERED = 64  # schemas that were looked over: the lines of a batch mostly have one between them
LONGEST_REMEMBERED = 64 * 1024  # characters; to look over one of 1 KB takes 3.4 ms, and to find it again 11 µs


def flaw(schema: Json) -> str:
    """Why nothing can be held against it; empty: it is a JSON Schema, and whole in itself."""
    try:
        text = json.dumps(schema)
        return _known_flaw(text) if len(text) <= LONGEST_REMEMBERED else _flaw(schema)
    except RecursionError:
        return _TOO_DEEP


@lru_cache(maxsize=REMEMBERED)
def _known_flaw(text: str) -> str:
    return _flaw(json.loads(text))


def _flaw(schema: Json) -> str:
    if not isinstance(schema, dict | bool):
        return "it is neither an object nor true or false"
    kind = _kind(schema)
    if kind is None:
        return "its $schema names no draft of JSON Schema that is known"
    try:
        kind.check_schema(schema)
        return next(_lost(schema), "")
    except jsonschema.SchemaError as error:
        return _told(error)
    except RecursionError:
        return _TOO_DEEP


def misfit(schema: Json, value: Json) -> str:
    """What of `value` does not fit a schema without a flaw; empty: all of it does."""
    validator: Validator = _kind(schema)(schema, registry=referencing.Registry())  # its default asks the network
    try:
        error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    except RecursionError:
        return "the schema refers to itself without an end, or the value is nested too deeply"
    return _told(error) if error is not None else ""


def _kind(schema: Json) -> Any:
    """The validator of the draft that a schema names; None: of none that is known."""
    named = schema.get("$schema", _DEFAULT.META_SCHEMA["$schema"]) if isinstance(schema, dict) else None
    if named is None:
        return _DEFAULT
    if not isinstance(named, str):
        return None
    return jsonschema.validators.validator_for({"$schema": named}, None)  # type: ignore[arg-type]  # comes back as it is


def _told(error: Any) -> str:
    return f"{error.json_path}: {error.message}"


def _lost(schema: Schema) -> Iterator[str]:
    """References that lead nowhere, as words."""
    named = schema.get("$schema") if isinstance(schema, dict) else None
    rules = specification_with(named) if isinstance(named, str) else DRAFT202012
    root = rules.create_resource(schema)
    yield from _lost_in(root, referencing.Registry().resolver_with_root(root))


def _lost_in(resource: "referencing.Resource[Schema]", resolver: Any) -> Iterator[str]:
    contents = resource.contents
    for name in _REFERENCES:
        target = contents.get(name) if not isinstance(contents, bool) else None
        if isinstance(target, str):
            try:
                resolver.lookup(target)
            except referencing.exceptions.Unresolvable:
                yield f'it refers to "{target}", which is not in it, and nothing is fetched'
    for inner in resource.subresources():
        yield from _lost_in(inner, resolver.in_subresource(inner))
