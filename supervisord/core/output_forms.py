"""Where each door's requests carry a JSON Schema, and where its answers have what must fit it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_ANY_OBJECT: Json = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Carried:
    """The schemas of a request. `text`: of the answer's text, at most one; `tools`: of the inputs of tools, by name.

    `must_call`: an answer without a call is none.
    """

    text: tuple[Json, ...] = ()
    tools: Mapping[str, Json] = field(default_factory=dict)
    must_call: bool = False

    def __bool__(self) -> bool:
        return bool(self.text or self.tools)

    def each(self) -> Iterator[tuple[str, Json]]:
        """Every schema, with a name for people."""
        yield from (("the answer", schema) for schema in self.text)
        yield from ((f'the tool "{name}"', schema) for name, schema in self.tools.items())


@dataclass(frozen=True, slots=True)
class Call:
    """Of a tool. `input`: a value, or the JSON text of one."""

    name: str
    input: Json


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers in an answer. `cut`: it ended at its limit of tokens."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    cut: bool = False
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """Of one endpoint. `where`: what carries its schema, in words."""

    where: str
    carried: Callable[[Mapping[str, Json]], Carried]
    choices: Callable[[Mapping[str, Json]], Sequence[Choice]]


def members(body: bytes) -> Mapping[str, Json]:
    """Those of a JSON object; none of what is no such thing."""
    try:
        return _object(json.loads(body))
    except (ValueError, RecursionError):
        return {}


def decoded(text: str) -> tuple[Json, str]:
    """The value of a JSON text, and why it is none."""
    try:
        return json.loads(text, parse_constant=_no_constant), ""
    except RecursionError:
        return None, "it is nested too deeply"
    except ValueError as error:
        marked = "; it stands between ``` marks" if text.lstrip().startswith("```") else ""
        return None, f"{error}{marked}"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _objects(value: Json) -> Sequence[Mapping[str, Json]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


# --- OpenAI's chat and completions -----------------------------------------------------------------------------------


def _of_openai(body: Mapping[str, Json]) -> Carried:
    tools = [_object(tool.get("function")) for tool in _objects(body.get("tools"))]
    choice = body.get("tool_choice")
    return Carried(
        text=_formatted(_object(body.get("response_format"))) or _of_servers(body),
        tools=_tools(tools, "parameters"),
        must_call=choice == "required" or _object(choice).get("type") == "function",
    )


def _formatted(form: Mapping[str, Json]) -> tuple[Json, ...]:
    """`{"type": "json_schema", …}`: the schema is beside the type, or one object further in (chat)."""
    inner = _object(form.get("json_schema"))
    schema = inner.get("schema", form.get("schema"))
    match form.get("type"):
        case "json_schema":
            return () if schema is None else (schema,)
        case "json_object":  # llama-server takes a schema with it
            return (_ANY_OBJECT if schema is None else schema,)
        case _:
            return ()


def _of_servers(body: Mapping[str, Json]) -> tuple[Json, ...]:
    """llama-server's own member; vLLM's, the newer first."""
    own = (body.get("json_schema"), _object(body.get("structured_outputs")).get("json"), body.get("guided_json"))
    given = next((schema for schema in own if schema is not None), None)
    if given is None:
        return ()
    return (decoded(given)[0] if isinstance(given, str) else given,)


def _tools(tools: Sequence[Mapping[str, Json]], member: str) -> Mapping[str, Json]:
    """A tool without a schema takes any object."""
    return {name: tool.get(member) or _ANY_OBJECT for tool in tools if (name := _text(tool.get("name")))}


def _chat_choices(answer: Mapping[str, Json]) -> Sequence[Choice]:
    return [_chat_choice(choice, _object(choice.get("message"))) for choice in _objects(answer.get("choices"))]


def _chat_choice(choice: Mapping[str, Json], message: Mapping[str, Json]) -> Choice:
    functions = [_object(call.get("function")) for call in _objects(message.get("tool_calls"))]
    return Choice(
        text=_text(message.get("content")),
        calls=tuple(Call(_text(each.get("name")), each.get("arguments")) for each in functions),
        cut=choice.get("finish_reason") == "length",
        refusal=_text(message.get("refusal")),
    )


def _completions(answer: Mapping[str, Json]) -> Sequence[Choice]:
    return [
        Choice(text=_text(choice.get("text")), cut=choice.get("finish_reason") == "length")
        for choice in _objects(answer.get("choices"))
    ]


# --- OpenAI's responses ----------------------------------------------------------------------------------------------


def _of_responses(body: Mapping[str, Json]) -> Carried:
    choice = body.get("tool_choice")
    return Carried(
        text=_formatted(_object(_object(body.get("text")).get("format"))),
        tools=_tools([tool for tool in _objects(body.get("tools")) if tool.get("type") == "function"], "parameters"),
        must_call=choice == "required" or _object(choice).get("type") == "function",
    )


def _response(answer: Mapping[str, Json]) -> Sequence[Choice]:
    items = _objects(answer.get("output"))
    parts = [part for item in items if item.get("type") == "message" for part in _objects(item.get("content"))]
    calls = [item for item in items if item.get("type") == "function_call"]
    incomplete = _object(answer.get("incomplete_details")).get("reason")
    if not parts and not calls:
        return [Choice(cut=True)] if incomplete == "max_output_tokens" else []
    return [
        Choice(
            text="".join(_text(part.get("text")) for part in parts),
            calls=tuple(Call(_text(call.get("name")), call.get("arguments")) for call in calls),
            cut=incomplete == "max_output_tokens",
            refusal="".join(_text(part.get("refusal")) for part in parts),
        )
    ]


# --- Anthropic's messages --------------------------------------------------------------------------------------------


def _of_messages(body: Mapping[str, Json]) -> Carried:
    form = _object(_object(body.get("output_config")).get("format")) or _object(body.get("output_format"))
    return Carried(
        text=_formatted(form),
        tools=_tools(_objects(body.get("tools")), "input_schema"),
        must_call=_object(body.get("tool_choice")).get("type") in {"any", "tool"},
    )


def _message(answer: Mapping[str, Json]) -> Sequence[Choice]:
    blocks = _objects(answer.get("content"))
    stopped = answer.get("stop_reason")
    if not blocks and stopped is None:
        return []
    return [
        Choice(
            text="".join(_text(block.get("text")) for block in blocks if block.get("type") == "text"),
            calls=tuple(
                Call(_text(block.get("name")), block.get("input"))
                for block in blocks
                if block.get("type") == "tool_use"
            ),
            cut=stopped in {"max_tokens", "model_context_window_exceeded"},
            refusal="stop_reason is refusal" if stopped == "refusal" else "",
        )
    ]


_OPENAI_WHERE = '"response_format" with a JSON Schema, or "tools"'
FORMS: Mapping[str, Form] = {
    "/v1/chat/completions": Form(_OPENAI_WHERE, _of_openai, _chat_choices),
    "/v1/completions": Form(_OPENAI_WHERE, _of_openai, _completions),
    "/v1/responses": Form('"text.format" with a JSON Schema, or "tools"', _of_responses, _response),
    "/v1/messages": Form('"output_config.format" with a JSON Schema, or "tools"', _of_messages, _message),
}
