"""What an answer is held against, where it is read from, and what is said of one that is not what was asked for."""

import json

import pytest

from supervisord.core.errors import InvalidRequestError
from supervisord.core.output_check import (
    LONGEST_MESSAGE,
    Fits,
    Truncated,
    Verdict,
    Wrong,
    asked,
    check_terms,
    shortened,
    verdict,
)
from supervisord.core.output_forms import FORMS, Json
from supervisord.core.terms import OutputCheck

CHAT, PLAIN, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
AS_CARRIED = OutputCheck("")
PERSON: dict[str, Json] = {"type": "object", "required": ["age"]}
TOOL: dict[str, Json] = {"type": "object", "required": ["city"]}


def misfit(schema: Json, value: Json) -> str:
    """JSON Schema, as far as these tests need it."""
    if not isinstance(schema, dict):
        return ""
    if schema.get("type") == "object" and not isinstance(value, dict):
        return f"$: {value!r} is no object"
    lacks = [name for name in schema.get("required", []) if name not in value]
    return f"$: {lacks[0]!r} is missing" if lacks else ""


def flaw(schema: Json) -> str:
    return "" if isinstance(schema, dict) else "it is none"


def judged(endpoint: str, request: dict[str, Json], answer: object, check: OutputCheck = AS_CARRIED) -> Verdict:
    return verdict(check, endpoint, json.dumps(request).encode(), json.dumps(answer).encode(), misfit)


def chat(*texts: str, finish: str = "stop") -> object:
    return {"choices": [{"message": {"content": text}, "finish_reason": finish} for text in texts]}


def calling(name: str, arguments: Json, finish: str = "tool_calls") -> object:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": finish}]}


def formatted(schema: Json) -> dict[str, Json]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}}


def function(name: str, parameters: Json) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


# --- what is asked for -----------------------------------------------------------------------------------------------


def test_without_words_of_its_own_it_goes_by_the_schema_of_the_request() -> None:
    assert asked() == OutputCheck("", retries=2)
    assert asked("null") == OutputCheck("", retries=2)


def test_it_can_bring_a_schema_and_how_often_to_ask_again() -> None:
    assert asked(' {"type": "object"}', "0") == OutputCheck(' {"type": "object"}', retries=0)
    assert asked(retries="10") == OutputCheck("", retries=10)


@pytest.mark.parametrize("retries", ["-1", "11", "1.5", "true", '"2"', "null", "1e1", "0" * 5000 + "2", "\u0662"])
def test_retries_are_a_whole_number_within_bounds(retries: str) -> None:
    with pytest.raises(InvalidRequestError, match="from 0 to 10") as told:
        asked(retries=retries)
    assert told.value.param == "validate_output.retries"


# --- whether it can be checked ---------------------------------------------------------------------------------------


def accepts(endpoint: str, request: dict[str, Json], check: OutputCheck = AS_CARRIED) -> None:
    check_terms(check, endpoint, json.dumps(request).encode(), flaw)


def test_a_request_that_carries_a_schema_can_be_checked() -> None:
    accepts(CHAT, formatted(PERSON))
    accepts(CHAT, {}, OutputCheck(json.dumps(PERSON)))


def test_without_any_schema_it_says_where_one_belongs() -> None:
    with pytest.raises(InvalidRequestError, match=r'give "text\.format" with a JSON Schema.*"validate_output\.schema"'):
        accepts(RESPONSES, {"input": "hello"})


def test_an_endpoint_without_text_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="/v1/chat/completions, /v1/completions"):
        accepts("/v1/embeddings", {})


def test_a_stream_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="needs the whole answer") as told:
        accepts(CHAT, {**formatted(PERSON), "stream": True})
    assert told.value.param == "stream"


def test_what_is_no_schema_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(InvalidRequestError, match="The JSON Schema of the answer cannot be used: it is none"):
        accepts(CHAT, formatted([1]))
    with pytest.raises(InvalidRequestError, match='of the tool "weather" cannot be used'):
        accepts(CHAT, {"tools": [function("weather", "any")]})


def test_the_form_of_each_endpoint_is_known() -> None:
    assert set(FORMS) == {CHAT, PLAIN, RESPONSES, MESSAGES}


# --- where requests carry a schema -----------------------------------------------------------------------------------

BARE: Json = {"type": "json_schema", "schema": PERSON}


@pytest.mark.parametrize(
    "request_",
    [
        formatted(PERSON),
        {"response_format": BARE},
        {"response_format": {"type": "json_object", "schema": PERSON}},
        {"json_schema": PERSON},
        {"guided_json": PERSON},
        {"guided_json": json.dumps(PERSON)},
        {"structured_outputs": {"json": PERSON}},
    ],
)
def test_every_form_of_openai_s_and_of_the_servers_is_read(request_: dict[str, Json]) -> None:
    assert judged(CHAT, request_, chat('{"age": 3}')) == Fits()
    assert judged(CHAT, request_, chat('{"name": "x"}')) == Wrong("$: 'age' is missing")


def test_a_json_object_without_a_schema_is_any_object() -> None:
    request: dict[str, Json] = {"response_format": {"type": "json_object"}}
    assert judged(CHAT, request, chat("{}")) == Fits()
    assert judged(CHAT, request, chat("3")) == Wrong("$: 3 is no object")


@pytest.mark.parametrize("form", [{"type": "text"}, {"type": "json_schema"}, {}, None])
def test_a_format_without_a_schema_carries_none(form: Json) -> None:
    with pytest.raises(InvalidRequestError):
        accepts(CHAT, {"response_format": form})


def test_a_schema_in_the_terms_goes_before_that_of_the_request() -> None:
    check = OutputCheck(json.dumps({"required": ["name"]}))
    assert judged(CHAT, formatted(PERSON), chat('{"name": "x"}'), check) == Fits()


# --- chat and completions --------------------------------------------------------------------------------------------


def test_every_choice_has_to_fit() -> None:
    assert judged(CHAT, formatted(PERSON), chat('{"age": 1}', "{}")) == Wrong("choice 2: $: 'age' is missing")


def test_what_is_no_json_says_so() -> None:
    told = judged(CHAT, formatted(PERSON), chat('{"age": '))
    assert told == Wrong("it is not JSON: Expecting value: line 1 column 9 (char 8)")


def test_marks_around_it_are_pointed_out() -> None:
    told = judged(CHAT, formatted(PERSON), chat('\n```json\n{"age": 1}\n```'))
    assert isinstance(told, Wrong)
    assert told.message.endswith("it stands between ``` marks")


def test_python_s_numbers_that_json_does_not_have_are_none() -> None:
    assert judged(CHAT, formatted(PERSON), chat('{"age": NaN}')) == Wrong("it is not JSON: NaN is no JSON number")


def test_depth_beyond_all_sense_is_said() -> None:
    told = judged(CHAT, formatted(PERSON), chat("[" * 200_000))
    assert told == Wrong("it is not JSON: it is nested too deeply")


def test_completions_have_their_text_elsewhere() -> None:
    answer = {"choices": [{"text": '{"age": 1}', "finish_reason": "stop"}]}
    assert judged(PLAIN, {"json_schema": PERSON}, answer) == Fits()
    cut = {"choices": [{"text": '{"age": ', "finish_reason": "length"}]}
    assert isinstance(judged(PLAIN, {"json_schema": PERSON}, cut), Truncated)


def test_an_answer_cut_off_at_its_limit_is_told_apart() -> None:
    told = judged(CHAT, formatted(PERSON), chat('{"age": ', finish="length"))
    assert isinstance(told, Truncated)
    assert told.message.startswith("it was cut off at its limit of tokens: it is not JSON")


def test_one_that_reached_its_limit_and_fits_is_good() -> None:
    assert judged(CHAT, formatted(PERSON), chat('{"age": 1}', finish="length")) == Fits()


def test_a_refusal_is_no_answer() -> None:
    answer = {"choices": [{"message": {"content": None, "refusal": "I would rather not"}, "finish_reason": "stop"}]}
    assert judged(CHAT, formatted(PERSON), answer) == Wrong("the model refused: I would rather not")


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": "x"}, [], "data: {}", {"choices": [3]}])
def test_what_is_no_answer_is_wrong(answer: object) -> None:
    assert judged(CHAT, formatted(PERSON), answer) == Wrong("the answer has no text and no calls in it")


def test_bytes_that_are_no_json_are_wrong() -> None:
    assert isinstance(verdict(AS_CARRIED, CHAT, b"{}", b"\xff", misfit), Wrong)


# --- tools -----------------------------------------------------------------------------------------------------------

WITH_TOOL: dict[str, Json] = {"tools": [function("weather", TOOL)]}


def test_the_input_of_a_call_has_to_fit_its_tool() -> None:
    assert judged(CHAT, WITH_TOOL, calling("weather", '{"city": "Ulm"}')) == Fits()
    told = judged(CHAT, WITH_TOOL, calling("weather", "{}"))
    assert told == Wrong("the call of weather: $: 'city' is missing")
    told = judged(CHAT, WITH_TOOL, calling("weather", "{"))
    assert isinstance(told, Wrong)
    assert told.message.startswith("the call of weather: it is not JSON")


def test_a_tool_that_nobody_offered_is_wrong() -> None:
    assert judged(CHAT, WITH_TOOL, calling("rain", "{}")) == Wrong('it calls "rain", which is none of its tools')


def test_a_tool_without_a_schema_takes_any_object() -> None:
    request: dict[str, Json] = {"tools": [function("weather", None), {"type": "function"}]}
    assert judged(CHAT, request, calling("weather", '{"x": 1}')) == Fits()
    assert isinstance(judged(CHAT, request, calling("weather", "3")), Wrong)


def test_a_text_is_fine_where_no_call_was_asked_for() -> None:
    assert judged(CHAT, WITH_TOOL, chat("It is sunny.")) == Fits()


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_text_is_wrong_where_a_call_was_asked_for(choice: Json) -> None:
    told = judged(CHAT, {**WITH_TOOL, "tool_choice": choice}, chat("It is sunny."))
    assert told == Wrong("it calls none of its tools")


def test_a_call_stands_for_the_text() -> None:
    request = {**WITH_TOOL, **formatted(PERSON)}
    assert judged(CHAT, request, calling("weather", '{"city": "Ulm"}')) == Fits()
    assert judged(CHAT, request, chat("{}")) == Wrong("$: 'age' is missing")


def test_calls_are_not_held_against_what_nobody_described() -> None:
    assert judged(CHAT, formatted(PERSON), calling("weather", "3")) == Fits()


# --- responses -------------------------------------------------------------------------------------------------------

TEXT: dict[str, Json] = {"text": {"format": {"type": "json_schema", "name": "it", "schema": PERSON}}}


def response(*output: Json, reason: str | None = None) -> object:
    return {"object": "response", "output": list(output), "incomplete_details": reason and {"reason": reason}}


def said(*texts: str) -> Json:
    return {"type": "message", "content": [{"type": "output_text", "text": text} for text in texts]}


def test_the_text_of_a_response_is_that_of_all_its_parts() -> None:
    thought: Json = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}
    assert judged(RESPONSES, TEXT, response(thought, said('{"age"', ": 1}"))) == Fits()
    assert judged(RESPONSES, TEXT, response(said("{}"))) == Wrong("$: 'age' is missing")


def test_a_response_that_reached_its_limit_is_told_apart() -> None:
    assert isinstance(judged(RESPONSES, TEXT, response(said("{"), reason="max_output_tokens")), Truncated)
    assert isinstance(judged(RESPONSES, TEXT, response(reason="max_output_tokens")), Truncated)
    assert isinstance(judged(RESPONSES, TEXT, response(said("{"), reason="content_filter")), Wrong)
    assert isinstance(judged(RESPONSES, TEXT, response()), Wrong)


def test_the_refusal_in_a_response_is_read() -> None:
    refused: Json = {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}
    assert judged(RESPONSES, TEXT, response(refused)) == Wrong("the model refused: no")


def test_the_calls_in_a_response_are_read() -> None:
    request: dict[str, Json] = {
        "tools": [{"type": "function", "name": "weather", "parameters": TOOL}, {"type": "web_search"}],
        "tool_choice": {"type": "function", "name": "weather"},
    }
    call: dict[str, Json] = {"type": "function_call", "name": "weather"}
    assert judged(RESPONSES, request, response({**call, "arguments": '{"city": "Ulm"}'})) == Fits()
    assert judged(RESPONSES, request, response({**call, "arguments": "{}"})) == Wrong(
        "the call of weather: $: 'city' is missing"
    )
    assert judged(RESPONSES, request, response(said("sunny"))) == Wrong("it calls none of its tools")
    assert judged(RESPONSES, {**request, "tool_choice": "auto"}, response(said("sunny"))) == Fits()


# --- messages --------------------------------------------------------------------------------------------------------


def message(*blocks: Json, stop: str | None = "end_turn") -> object:
    return {"type": "message", "content": list(blocks), "stop_reason": stop}


def block(text: str) -> Json:
    return {"type": "text", "text": text}


@pytest.mark.parametrize("request_", [{"output_config": {"format": BARE}}, {"output_format": BARE}])
def test_the_format_of_messages_is_read(request_: dict[str, Json]) -> None:
    thought: Json = {"type": "thinking", "thinking": "hm"}
    assert judged(MESSAGES, request_, message(thought, block('{"age"'), block(": 1}"))) == Fits()
    assert judged(MESSAGES, request_, message(block("{}"))) == Wrong("$: 'age' is missing")


@pytest.mark.parametrize("stop", ["max_tokens", "model_context_window_exceeded"])
def test_a_message_that_reached_its_limit_is_told_apart(stop: str) -> None:
    request: dict[str, Json] = {"output_config": {"format": BARE}}
    assert isinstance(judged(MESSAGES, request, message(block("{"), stop=stop)), Truncated)
    assert isinstance(judged(MESSAGES, request, message(stop=stop)), Truncated)


def test_a_message_that_refuses_or_is_none_is_wrong() -> None:
    request: dict[str, Json] = {"output_config": {"format": BARE}}
    told = judged(MESSAGES, request, message(block("No."), stop="refusal"))
    assert told == Wrong("the model refused: stop_reason is refusal")
    assert judged(MESSAGES, request, message(stop=None)) == Wrong("the answer has no text and no calls in it")


def test_the_calls_in_a_message_are_read() -> None:
    request: dict[str, Json] = {"tools": [{"name": "weather", "input_schema": TOOL}]}
    use: dict[str, Json] = {"type": "tool_use", "name": "weather"}
    assert judged(MESSAGES, request, message({**use, "input": {"city": "Ulm"}}, stop="tool_use")) == Fits()
    told = judged(MESSAGES, request, message({**use, "input": {}}, stop="tool_use"))
    assert told == Wrong("the call of weather: $: 'city' is missing")
    assert judged(MESSAGES, request, message(block("sunny"))) == Fits()
    for kind in ("any", "tool"):
        told = judged(MESSAGES, {**request, "tool_choice": {"type": kind}}, message(block("sunny")))
        assert told == Wrong("it calls none of its tools")


# --- what is kept of a message ---------------------------------------------------------------------------------------


def test_a_message_that_quotes_a_long_answer_is_cut() -> None:
    assert shortened("x" * LONGEST_MESSAGE) == "x" * LONGEST_MESSAGE
    cut = shortened("x" * (LONGEST_MESSAGE + 1))
    assert len(cut) == LONGEST_MESSAGE
    assert cut.endswith("…")
    told = judged(CHAT, {"response_format": {"type": "json_object"}}, chat(json.dumps("y" * 5000)))
    assert isinstance(told, Wrong)
    assert len(told.message) == LONGEST_MESSAGE
