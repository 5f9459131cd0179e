"""What a backend's answer is worth."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.answer import (
    TAIL_BYTES,
    Refusal,
    StreamWatch,
    error_kind,
    error_message,
    refusal,
    usage,
    without_usage,
)
from supervisord.core.dialect import Dialect, error_event, fails
from supervisord.core.job import FailureReason
from supervisord.core.record import Usage

TOO_LONG = (
    b'{"error":{"code":400,"message":"the request exceeds the available context size, try increasing it",'
    b'"type":"exceed_context_size_error","n_prompt_tokens":9000,"n_ctx":4096}}'
)

VLLM_TOO_LONG = (
    b'{"error":{"message":"This model\'s maximum context length is 64 tokens. However, your prompt contains at least '
    b'65 input tokens","type":"BadRequestError","param":"input_tokens","code":400}}'
)
VLLM_ENGINE_TOO_LONG = (
    b'{"error":{"message":"The decoder prompt (length 90) is longer than the maximum model length of 64.",'
    b'"type":"BadRequestError","param":null,"code":400}}'
)
OPENAI_TOO_LONG = b'{"error":{"message":"too much","type":"invalid_request_error","code":"context_length_exceeded"}}'


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, 302])
def test_success_is_no_refusal(status: int) -> None:
    assert refusal(status, TOO_LONG) is None


@pytest.mark.parametrize(
    ("status", "body", "reason", "retriable"),
    [
        (400, b'{"error":{"message":"invalid grammar"}}', FailureReason.REQUEST_REJECTED, False),
        (400, TOO_LONG, FailureReason.CONTEXT_LENGTH_EXCEEDED, False),
        (400, VLLM_TOO_LONG, FailureReason.CONTEXT_LENGTH_EXCEEDED, False),
        (400, VLLM_ENGINE_TOO_LONG, FailureReason.CONTEXT_LENGTH_EXCEEDED, False),
        (400, OPENAI_TOO_LONG, FailureReason.CONTEXT_LENGTH_EXCEEDED, False),
        (404, b"", FailureReason.ENDPOINT_MISSING, True),
        (429, b"", FailureReason.BACKEND_BUSY, True),
        (500, b'{"error":{"message":"Compute error."}}', FailureReason.BACKEND_ERROR, True),
        (500, TOO_LONG, FailureReason.BACKEND_ERROR, True),
        (401, b"", FailureReason.REQUEST_REJECTED, False),
        (409, b"", FailureReason.REQUEST_REJECTED, False),
        (499, b"", FailureReason.REQUEST_REJECTED, False),
        (501, b"", FailureReason.ENDPOINT_MISSING, True),
        (505, b"", FailureReason.BACKEND_ERROR, True),
        (507, b"", FailureReason.BACKEND_ERROR, True),
        (529, b"", FailureReason.BACKEND_BUSY, True),
        (599, b"", FailureReason.BACKEND_ERROR, True),
        (502, b"", FailureReason.BACKEND_ERROR, True),
        (503, b'{"error":{"message":"Loading model"}}', FailureReason.BACKEND_BUSY, True),
        (504, b"", FailureReason.BACKEND_ERROR, True),
    ],
)
def test_refusals(status: int, body: bytes, reason: FailureReason, retriable: bool) -> None:
    assert refusal(status, body) == Refusal(reason, retriable)


@pytest.mark.parametrize("status", [401, 402, 403, 404, 408, 500, 502, 504, 520, 522, 530])
def test_what_a_service_elsewhere_says_of_our_account_another_backend_need_not_say(status: int) -> None:
    assert refusal(status, b"{}", elsewhere=True) == Refusal(FailureReason.BACKEND_ERROR, retriable=True)


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_service_elsewhere_that_is_busy_is_busy(status: int) -> None:
    assert refusal(status, b"{}", elsewhere=True) == Refusal(FailureReason.BACKEND_BUSY, retriable=True)


@pytest.mark.parametrize("status", [400, 405, 409, 413, 422])
def test_what_the_client_did_wrong_is_wrong_everywhere(status: int) -> None:
    assert refusal(status, b"{}", elsewhere=True) == Refusal(FailureReason.REQUEST_REJECTED, retriable=False)
    assert refusal(400, TOO_LONG, elsewhere=True) == Refusal(FailureReason.CONTEXT_LENGTH_EXCEEDED, retriable=False)
    assert refusal(200, b"{}", elsewhere=True) is None


# --- usage -----------------------------------------------------------------------------------------------------------

ANSWER = json.dumps(
    {
        "choices": [{"text": ",\n\nI have", "index": 0, "finish_reason": "length"}],
        "usage": {
            "completion_tokens": 8,
            "prompt_tokens": 12,
            "total_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 10},
        },
        "timings": {"cache_n": 10, "prompt_n": 2, "prompt_ms": 14.2, "predicted_n": 8, "predicted_per_second": 79.45},
    },
    separators=(",", ":"),
).encode()
CHUNK = b'data: {"choices":[{"delta":{"content":"x"}}],"usage":null}\n\n'
LAST = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n'


def test_usage_of_a_whole_answer() -> None:
    assert usage(ANSWER) == Usage(tokens_in=12, tokens_cached=10, tokens_out=8, tokens_per_second=79.45)


def test_usage_of_a_stream_stands_in_its_last_chunk_but_one() -> None:
    assert usage(CHUNK * 3 + LAST + b"data: [DONE]\n\n") == Usage(tokens_in=3, tokens_out=4)
    assert usage(LAST + CHUNK) == Usage(tokens_in=3, tokens_out=4)


def test_without_usage_the_timings_tell() -> None:
    body = b'data: {"timings":{"cache_n":5,"prompt_n":2,"predicted_n":4,"predicted_per_second":50}}\n\n'

    assert usage(body) == Usage(tokens_in=7, tokens_cached=5, tokens_out=4, tokens_per_second=50.0)
    assert usage(b'{"timings":{"prompt_n":2}}') == Usage(tokens_in=2)


def test_a_model_that_writes_about_usage_fools_nobody() -> None:
    written = json.dumps({"choices": [{"text": '"usage":{"prompt_tokens":999}'}]}, separators=(",", ":")).encode()

    assert usage(written) == Usage()
    assert usage(ANSWER + written) == usage(ANSWER)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'"usage":',
        b'"usage":[1]',
        b'"usage":{"prompt_tokens":',
        b'"usage":{"prompt_tokens":-1,"completion_tokens":1.5}',
        b'"usage":{"prompt_tokens":true,"completion_tokens":"4","prompt_tokens_details":[]}',
        b'"usage":{"prompt_tokens":' + b"9" * 30 + b"}",
        b'"usage":{"a":' + b"[" * 4000,
        b'"usage":{"a":' + b'{"a":' * 800,
        b'"timings":{"predicted_per_second":0}',
        b'"timings":{"predicted_per_second":-3}',
        b'"timings":{"predicted_per_second":Infinity}',
        b'"timings":{"predicted_per_second":NaN}',
        b'"timings":{"predicted_per_second":' + b"9" * 400 + b"}",
        b'"usage":\xff\xfe',
    ],
)
def test_nonsense_is_unknown(body: bytes) -> None:
    assert usage(body) == Usage()


@given(st.binary(max_size=120), st.sampled_from([b'"usage":', b'"timings":{', b'"error":{"message":']))
def test_no_bytes_break_it(junk: bytes, start: bytes) -> None:
    usage(start + junk)
    error_message(start + junk)
    refusal(500, start + junk)


ANTHROPIC = (
    b'{"type":"message","content":[{"type":"text","text":"x"}],'
    b'"usage":{"cache_creation_input_tokens":2,"cache_read_input_tokens":8,"input_tokens":5,"output_tokens":4}}'
)
START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"cache_read_input_tokens":8,'
    b'"input_tokens":5,"output_tokens":0}}}\n\n'
)
DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"word "}}\n\n'
END = b'event: message_delta\ndata: {"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def test_usage_of_anthropics_counts_the_cached_part_apart() -> None:
    assert usage(ANTHROPIC) == Usage(tokens_in=15, tokens_cached=8, tokens_out=4)
    assert usage(b'{"usage":{"cache_creation_input_tokens":2,"input_tokens":5}}') == Usage(tokens_in=7)
    assert usage(START + END + STOP) == Usage(tokens_in=13, tokens_cached=8, tokens_out=4)
    assert usage(END + STOP) == Usage(tokens_out=4)


def test_usage_of_responses() -> None:
    told = b'{"usage":{"input_tokens":13,"output_tokens":4,"input_tokens_details":{"cached_tokens":8}}}'
    assert usage(told) == Usage(tokens_in=13, tokens_cached=8, tokens_out=4)


def test_usage_of_a_long_stream_of_anthropics_is_whole() -> None:
    watch = StreamWatch(Dialect.MESSAGES)
    for event in (START, *[DELTA] * 1000, END, STOP):
        watch.feed(event)
    assert START not in watch.tail
    assert usage(watch.evidence) == Usage(tokens_in=13, tokens_cached=8, tokens_out=4)
    assert watch.done
    short = StreamWatch(Dialect.MESSAGES)
    short.feed(START + END + STOP)
    assert short.evidence == short.tail


# --- what an error says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error":{"message":"Compute\\n error.","code":500}}', "Compute error."),
        (b'data: {"error":{"message":"EngineCore died"}}\n\n', "EngineCore died"),
        (b'{"error":"not found"}', '{"error":"not found"}'),
        (b'{"error":{"message":""}}', '{"error":{"message":""}}'),
        (b"<html>\n bad  gateway", "<html> bad gateway"),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
        (b"", ""),
    ],
)
def test_what_an_error_says_in_one_line(body: bytes, told: str) -> None:
    assert error_message(body) == told


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (TOO_LONG, "exceed_context_size_error 400 n_prompt_tokens=9000 n_ctx=4096"),
        (b'{"error":{"message":"my secret","type":"BadRequestError","param":null,"code":"x","fatal":true}}',
         "BadRequestError x"),
        (b'{"error":{"message":"my secret"}}', "an error without a type"),
        (b"<html>", "an error without a type"),
    ],
)  # fmt: skip
def test_what_kind_of_error_it_is_without_a_word_of_the_prompt(body: bytes, told: str) -> None:
    assert error_kind(body) == told


def test_an_error_that_says_much_is_cut() -> None:
    assert len(error_message(json.dumps({"error": {"message": "x" * 1000}}, separators=(",", ":")).encode())) == 300
    assert len(error_message(b"y" * 1000)) == 300


def test_an_error_event_of_ours_is_one_that_we_would_notice() -> None:
    event = error_event(Dialect.CHAT, "The answer was cut\n\noff: ü", "backend_error", "backend_died")

    assert fails(Dialect.CHAT, event)
    assert event.count(b"\n\n") == 1
    assert event.endswith(b"\n\n")
    assert json.loads(event.removeprefix(b"data: ")) == {
        "error": {
            "message": "The answer was cut\n\noff: ü",
            "type": "backend_error",
            "param": None,
            "code": "backend_died",
        }
    }


# --- streams ---------------------------------------------------------------------------------------------------------

A, B, DONE = b'data: {"a":1}\n\n', b'data: {"b":"\xe2\x82\xac"}\n\n', b"data: [DONE]\n\n"
PING = b": ping\n"


def fed(*parts: bytes) -> tuple[StreamWatch, list[bytes]]:
    watch = StreamWatch()
    return watch, [watch.feed(part) for part in parts]


def test_whole_events_go_on_as_they_came() -> None:
    watch, out = fed(A, B + DONE)

    assert out == [A, B + DONE]
    assert (watch.done, watch.failed, watch.rest()) == (True, False, b"")


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"], ids=["LF", "CR LF"])
def test_half_an_event_waits_for_its_other_half(end: bytes) -> None:
    one, two = b'data: {"a":1}' + end, b'data: {"b":2}' + end
    for cut in range(1, len(two)):
        watch, out = fed(one + two[:cut], two[cut:])
        assert out == [one, two], cut
        assert watch.rest() == b""


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"], ids=["LF", "CR LF"])
def test_nothing_of_a_first_event_goes_on_before_it_is_whole(end: bytes) -> None:
    event = b'data: {"a":1}' + end
    for cut in range(1, len(event)):
        watch, out = fed(event[:cut])
        assert out == [b""]
        assert watch.rest() == event[:cut]


def test_a_carriage_return_within_an_event_ends_nothing() -> None:
    assert fed(b"data: a\rb", b"c\n\n")[1] == [b"", b"data: a\rbc\n\n"]


def test_a_keep_alive_goes_on_at_once() -> None:
    assert fed(PING, A + PING, b": pi", b"ng\n")[1] == [PING, A + PING, b"", PING]


def test_an_event_beyond_the_limit_goes_on_in_parts() -> None:
    long = b"data: " + b"x" * StreamWatch.HOLD_LIMIT
    _, out = fed(A + long, b"yz\n\n")

    assert out == [A + long, b"yz\n\n"]


def test_the_end_gives_what_was_held_back() -> None:
    watch, _ = fed(A, DONE[:-1])

    assert not watch.done
    assert watch.rest() == DONE[:-1]
    assert watch.done
    assert watch.rest() == b""


@pytest.mark.parametrize(
    "error",
    [
        b'data: {"error":{"message":"x"}}\n\n',
        b'data:{"error":{"message":"x"}}\n\n',
        b'data: {"error": {"message": "x", "code": 500}}\n\n',
        b'error: {"code":500,"message":"x","type":"server_error"}\n\n',
        b'event: error\ndata: {"type":"error"}\n\n',
        b'data: {"error":{"message":"x"}}\r\n\r\n',
    ],
)
@pytest.mark.parametrize("before", [b"", A, PING + b"\n"])
def test_an_error_event_is_noticed_wherever_it_stands(error: bytes, before: bytes) -> None:
    watch, _ = fed(before + error + DONE)

    assert watch.failed
    assert not watch.done, "[DONE] after an error proves nothing"


def test_an_error_is_not_forgotten() -> None:
    assert fed(A, b'data: {"error":{}}\n\n', A)[0].failed


def test_what_vllm_sends_when_its_engine_dies_is_a_failure_although_it_says_done() -> None:
    """As seen: status 200, then this, then [DONE], from a server that ends with status 0 a second later."""
    error = (
        b'data: {"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", '
        b'"type": "InternalServerError", "param": null, "code": 500}}\n\n'
    )
    watch, _ = fed(CHUNK, error, DONE)

    assert (watch.failed, watch.done) == (True, False)


@pytest.mark.parametrize(
    "text", ['{"error": 1}', "data: [DONE]", 'data: {"error":{}}', "event: error", "error: {", "\n\ndata: [DONE]\n\n"]
)
def test_a_model_may_write_any_words(text: str) -> None:
    chunk = b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"
    watch, _ = fed(chunk)

    assert not watch.failed
    assert not watch.done, "a stream that was cut is shown as complete"
    watch.feed(DONE)
    assert watch.done


def test_an_event_that_ends_as_done_would_is_not_done() -> None:
    for length in range(300):
        watch, _ = fed(b'data: "' + b"x" * length + b'data: [DONE]"\n\n')
        assert not watch.done


def test_a_long_comment_after_done_does_not_matter() -> None:
    assert fed(A, DONE, PING)[0].done


def test_the_tail_is_long_enough_and_bounded() -> None:
    watch = StreamWatch()
    for number in range(5000):
        watch.feed(b"data: %d %s\n\n" % (number, b"x" * 50))

    assert TAIL_BYTES <= len(watch.tail) < TAIL_BYTES + 100
    assert watch.tail.endswith(b"data: 4999 " + b"x" * 50 + b"\n\n")
    assert watch.tail.startswith(b"data: ")


EVENTS = st.lists(
    st.sampled_from([A, B, PING, PING + b"\n", DONE, b'data: {"c":3}\r\n\r\n', b"data: a\rb\n\n", b"id: 7\n\n"]),
    max_size=12,
)


@given(EVENTS, st.lists(st.integers(0, 400), max_size=12), st.integers(0, 30))
def test_however_it_is_cut_every_byte_arrives_once_in_order(events: list[bytes], cuts: list[int], lost: int) -> None:
    whole = b"".join(events)
    whole = whole[: len(whole) - lost] if lost else whole
    points = sorted({0, len(whole), *(c for c in cuts if c < len(whole))})
    watch = StreamWatch()
    out = [watch.feed(whole[a:b]) for a, b in itertools.pairwise(points)]
    for part in out:
        assert part == b"" or part.endswith(b"\n"), "part of a line has reached the client"
    assert b"".join(out) + watch.rest() == whole


# --- usage that only we asked for ------------------------------------------------------------------------------------

SPACED = b'data: {"id": "x", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}\n\n'
FILTERED = b'data: {"choices":[],"prompt_filter_results":[]}\n\n'  # Azure's first event
LAST_CHOICE = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3}}\n\n'
NESTED = b'data: {"choices":[{"delta":{"x":{"choices":[]}}}],"usage":{"prompt_tokens":3}}\n\n'
TALK = b"data: " + json.dumps({"choices": [{"delta": {"content": '"choices":[],"usage":{}'}}]}).encode() + b"\n\n"


def hidden(*parts: bytes) -> tuple[StreamWatch, list[bytes]]:
    watch = StreamWatch(hide_usage=True)
    return watch, [watch.feed(part) for part in parts]


@pytest.mark.parametrize("event", [LAST, SPACED, LAST.replace(b"\n", b"\r\n")])
def test_the_usage_is_kept_for_the_record_and_from_the_client(event: bytes) -> None:
    end = b"\r\n\r\n" if event.endswith(b"\r\n") else b"\n\n"
    chunk, done = CHUNK.replace(b"\n\n", end), DONE.replace(b"\n\n", end)
    for parts in ([chunk, event, done], [chunk + event, done], [chunk, event + done], [chunk + event + done]):
        watch, out = hidden(*parts)
        assert b"".join(out) == chunk + done
        assert usage(watch.tail) == Usage(tokens_in=3, tokens_out=4)
        assert watch.done


def test_without_being_told_to_nothing_is_hidden() -> None:
    assert fed(CHUNK, LAST, DONE)[1] == [CHUNK, LAST, DONE]


@pytest.mark.parametrize("event", [CHUNK, FILTERED, LAST_CHOICE, NESTED, TALK, PING + b"\n", CHUNK[:9] + b"\n\n"])
def test_everything_else_passes(event: bytes) -> None:
    assert hidden(event, DONE)[1] == [event, DONE]
    assert without_usage(event + LAST + event) == event + event


def test_a_usage_event_in_two_halves_is_hidden_too() -> None:
    for cut in range(1, len(LAST)):
        assert b"".join(hidden(CHUNK + LAST[:cut], LAST[cut:] + DONE)[1]) == CHUNK + DONE


def test_a_usage_event_that_ends_the_stream_without_a_blank_line_is_hidden_too() -> None:
    for event in (LAST[:-1], LAST[:-2]):
        watch, out = hidden(CHUNK, event)
        assert (out, watch.rest()) == ([CHUNK, b""], b"")
    watch, _ = hidden(CHUNK, LAST[:-9])
    assert watch.rest() == LAST[:-9], "it was cut off: who knows what it is"


@pytest.mark.parametrize("deep", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff"])
def test_what_cannot_be_read_passes(deep: bytes) -> None:
    event = b'data: {"choices":[],"usage":' + deep + b"\n\n"

    assert without_usage(event) == event


@given(
    st.lists(st.sampled_from([CHUNK, LAST, SPACED, FILTERED, LAST_CHOICE, TALK, PING + b"\n", DONE]), max_size=10),
    st.lists(st.integers(0, 900), max_size=10),
)
def test_however_it_is_cut_only_the_usage_is_missing(events: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(events)
    points = sorted({0, len(whole), *(c for c in cuts if c < len(whole))})
    watch, out = hidden(*(whole[a:b] for a, b in itertools.pairwise(points)))

    assert b"".join(out) + watch.rest() == b"".join(event for event in events if event not in {LAST, SPACED})


def test_a_server_without_its_engine_is_not_asked_again() -> None:
    """The words of vLLM 0.32, after HTTP 500 and as an error event."""
    said = b'{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause."}}'
    refused = refusal(500, said)
    assert refused is not None
    assert (refused.reason, refused.retriable) == (FailureReason.BACKEND_DIED, True)
    other = refusal(500, b'{"error":{"message":"Compute error."}}')
    assert other is not None
    assert other.reason is FailureReason.BACKEND_ERROR


# --- the other dialects ----------------------------------------------------------------------------------------------

COMPLETED = b'event: response.completed\ndata: {"response":{"output":[{"text":"%b"}],"usage":{"input_tokens":3}}}\n\n'


def test_a_last_event_that_is_longer_than_what_is_held_back() -> None:
    event = COMPLETED % (b"x" * 3 * StreamWatch.HOLD_LIMIT)
    watch = StreamWatch(Dialect.RESPONSES)
    parts = [event[at : at + 200_000] for at in range(0, len(event), 200_000)]
    for part in parts[:-1]:
        watch.feed(part)
    assert not watch.done, "it is not whole yet"
    watch.feed(parts[-1])
    assert watch.done
    assert usage(watch.evidence) == Usage(tokens_in=3)


def test_a_last_event_that_is_cut_off_is_no_end() -> None:
    watch = StreamWatch(Dialect.RESPONSES)
    watch.feed((COMPLETED % b"x")[:-20])
    watch.rest()
    assert not watch.done


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (501, b'{"error":{"message":"This server does not support reranking"}}'),
        (404, b'{"error":{"message":"File Not Found","type":"not_found_error","code":404}}'),
        (404, b'{"detail":"Not Found"}'),
        (405, b'{"detail":"Method Not Allowed"}'),
        (404, b"404 page not found"),
        (404, b""),
    ],
)
def test_a_backend_that_lacks_the_endpoint(status: int, body: bytes) -> None:
    wanted = Refusal(FailureReason.ENDPOINT_MISSING, retriable=True)
    assert refusal(status, body) == refusal(status, body, elsewhere=True) == wanted


def test_a_model_that_is_not_there_is_no_missing_endpoint() -> None:
    told = b'{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","code":404}}'
    assert refusal(404, told) == Refusal(FailureReason.REQUEST_REJECTED, retriable=False)
