"""Values of JSON that fit a schema, and values that fit nothing."""

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

Schema = Mapping[str, Any]

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def fitting(schema: Schema, named: Schema) -> st.SearchStrategy[Any]:
    """Values of a schema, of the kinds that our document is made of; `named`: those that it may refer to."""
    if "$ref" in schema:
        return fitting(named[schema["$ref"].rpartition("/")[2]], named)
    if "anyOf" in schema:
        return st.one_of([fitting(each, named) for each in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    return _KINDS.get(schema.get("type", ""), lambda _schema, _named: ANYTHING)(schema, named)


def _object(schema: Schema, named: Schema) -> st.SearchStrategy[Any]:
    members = {name: fitting(each, named) for name, each in schema.get("properties", {}).items()}
    required = {name: members.pop(name) for name in schema.get("required", ())}
    more = schema.get("additionalProperties", False)
    if not more:
        return st.fixed_dictionaries(required, optional=members)
    others = st.dictionaries(st.text(max_size=8), ANYTHING if more is True else fitting(more, named), max_size=2)
    return st.builds(lambda own, strange: strange | own, st.fixed_dictionaries(required, optional=members), others)


def _figure(schema: Schema, _named: Schema) -> st.SearchStrategy[float]:
    return st.floats(allow_nan=False, allow_infinity=False, min_value=schema.get("minimum"))


_KINDS: Mapping[str, Callable[[Schema, Schema], st.SearchStrategy[Any]]] = {
    "string": lambda schema, _: st.text(min_size=schema.get("minLength", 0), max_size=schema.get("maxLength", 30)),
    "boolean": lambda _schema, _named: st.booleans(),
    "integer": lambda schema, _: st.integers(schema.get("minimum", -(2**64)), schema.get("maximum", 2**64)),
    "number": _figure,
    "null": lambda _schema, _named: st.none(),
    "array": lambda schema, named: st.lists(fitting(schema.get("items", {}), named), max_size=3),
    "object": _object,
}
