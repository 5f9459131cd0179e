"""What the public doors take, refuse and pass on, whichever of them it comes through."""

from typing import Any

import pytest

from supervisord.core.errors import StoreUnavailableError
from supervisord.core.output_check import Fits
from supervisord.core.terms import OutputCheck, Terms
from tests.api.doors import Doors
from tests.engine.overnight import Night, night
from tests.engine.test_durable_tries import Checker

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
WORDS = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": WORDS},
    RESPONSES: {"model": "m", "input": "hello"},
    MESSAGES: {"model": "m", "messages": WORDS, "max_tokens": 4},
}
CHECKED = {"validate_output": {"schema": {"type": "object"}, "retries": 1}}


async def terms(it: Night, job_id: str) -> Terms:
    found = (await it.job(job_id)).job.terms
    assert found is not None
    return found


# --- kept, or checked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", BODIES)
async def test_a_request_that_is_kept_is_checked_as_its_body_asks(path: str) -> None:
    async with night(outputs=Checker([Fits()] * 2)) as it:
        ask = Doors(it)
        kept = await ask(path, {**BODIES[path], **CHECKED}, prefer="respond-async")
        assert kept.status == 202
        check = OutputCheck('{"type": "object"}', retries=1)
        assert (await terms(it, kept.json["id"])).check == check
        once = await ask(path, {**BODIES[path], **CHECKED}, idempotency_key="k")
        assert (await terms(it, once.headers["x-job-id"])).check == check


@pytest.mark.parametrize("path", BODIES)
async def test_one_that_is_answered_at_once_is_not_and_is_told_so(path: str) -> None:
    async with night(outputs=Checker([])) as it:
        ask = Doors(it)
        told = await ask(path, {**BODIES[path], **CHECKED})
        assert told.status == 400
        assert b"respond-async" in told.body
        for nothing in (False, None):
            assert (await ask(path, {**BODIES[path], "validate_output": nothing})).status == 200


async def test_a_job_takes_what_it_is_to_be_checked_by_beside_its_body() -> None:
    async with night(outputs=Checker([])) as it:
        ask = Doors(it)
        job = {"endpoint": CHAT, "body": BODIES[CHAT]}
        told = await ask("/v1/jobs", {**job, "body": {**BODIES[CHAT], **CHECKED}})
        assert (told.status, told.param) == (400, "body.validate_output")
        kept = await ask("/v1/jobs", {**job, **CHECKED, "metadata": {"night": "1"}})
        found = await terms(it, kept.json["id"])
        assert (found.check, found.metadata) == (OutputCheck('{"type": "object"}', retries=1), {"night": "1"})


# --- Anthropic's clients ---------------------------------------------------------------------------------------------


async def test_messages_are_made_once_for_a_key_and_answered_as_their_clients_read_it() -> None:
    async with night() as it:
        ask = Doors(it)
        first = await ask(MESSAGES, BODIES[MESSAGES], idempotency_key="k")
        again = await ask(MESSAGES, BODIES[MESSAGES], idempotency_key="k")
        assert (first.status, first.body) == (200, again.body)
        assert first.headers["request-id"] == again.headers["request-id"] == first.headers["x-job-id"]
        assert len(it.services[0].requests) == 1
        other = await ask(MESSAGES, {**BODIES[MESSAGES], "max_tokens": 5}, idempotency_key="k")
        assert (other.status, other.json["type"]) == (422, "error")
        stream = await ask(MESSAGES, {**BODIES[MESSAGES], "stream": True}, idempotency_key="k2")
        assert (stream.status, stream.json["error"]["type"]) == (400, "invalid_request_error")


async def test_a_failure_of_messages_that_are_kept_is_in_anthropics_shape() -> None:
    async with night() as it:
        it.services[0].status = 400
        told = await Doors(it)(MESSAGES, BODIES[MESSAGES], idempotency_key="k")
        assert (told.status, told.json["type"], told.json["error"]["message"]) == (400, "error", "remote says 400")
        assert told.json["request_id"] == told.headers["request-id"]


# --- in the background -----------------------------------------------------------------------------------------------


async def test_background_is_background_however_it_is_written() -> None:
    async with night() as it:
        ask = Doors(it)
        told = await ask(RESPONSES, rb'{"model":"m","input":"x","back\u0067round":true}')
        assert (told.status, told.json["background"], told.json["id"][:5]) == (200, True, "resp_")
        for other in ("1", "{}"):
            wrong = await ask(RESPONSES, b'{"model":"m","input":"x","background":%b}' % other.encode())
            assert (wrong.status, wrong.param) == (400, "background")


async def test_a_job_is_in_the_background_as_it_is() -> None:
    async with night() as it:
        body = {**BODIES[RESPONSES], "background": True}
        told = await Doors(it)("/v1/jobs", {"endpoint": RESPONSES, "body": body})
        assert (told.status, told.param) == (400, "body.background")


async def test_a_response_that_is_not_to_be_kept_is_refused_and_metadata_are_bounded() -> None:
    async with night() as it:
        ask = Doors(it)
        body = {**BODIES[RESPONSES], "background": True}
        for wrong, param in (({"store": False}, "store"), ({"metadata": {"a": 1}}, "metadata")):
            told = await ask(RESPONSES, {**body, **wrong})
            assert (told.status, told.param) == (400, param)
        kept = await ask(RESPONSES, {**body, "store": True, "metadata": {"a": "1"}})
        assert kept.json["metadata"] == {"a": "1"}


# --- forms -----------------------------------------------------------------------------------------------------------

TRANSCRIPTIONS = "/v1/audio/transcriptions"
FORM = {"content_type": 'multipart/form-data; boundary="x y"'}
SOUND = b"RIFF\r\n\r\n--x\r\n\x00\xff" * 100


def form(*fields: tuple[str, bytes], file: bytes = SOUND) -> bytes:
    parts = [b'content-disposition: form-data; name="%b"\r\n\r\n%b' % (name.encode(), value) for name, value in fields]
    kinds = b'content-type: audio/wav\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return b"".join(b"--x y\r\n%b\r\n" % part for part in [*parts, kinds + file]) + b"--x y--\r\n"


async def test_a_sound_goes_through_as_it_came() -> None:
    async with night() as it:
        body = form(("language", b"en"), ("model", b"alias"), ("temperature", b"0"))
        told = await Doors(it)(TRANSCRIPTIONS, body, **FORM, x_priority="high")
        assert (told.status, told.json) == (200, {"text": "what was said"})
        (request,) = it.services[0].requests
        assert request == {"file": ("a.wav", SOUND), "model": "alias", "language": "en", "temperature": "0"}
        assert it.services[0].headers[0]["Content-Type"] == FORM["content_type"]
        stored = await it.job(told.headers["x-job-id"])
        assert (stored.job.endpoint, stored.job.model, stored.job.priority) == (TRANSCRIPTIONS, "alias", 0)


async def test_a_sound_is_refused_with_what_is_wrong_about_its_form() -> None:
    async with night() as it:
        ask = Doors(it)
        model = ("model", b"m")
        for body, param in (
            (form(), "model"),
            (form(("model", b"")), "model"),
            (form(("model", b"m" * 5000)), "model"),
            (form(model, model), "model"),
            (form(model, ("stream", b"true")), "stream"),
            (form(model).replace(b'"file"', b'"sound"'), "file"),
            (form(model)[:-9], None),
            (b"{}", None),
        ):
            told = await ask(TRANSCRIPTIONS, body, **FORM)
            assert (told.status, told.param) == (400, param), body[:80]
        assert (await ask(TRANSCRIPTIONS, form(model), content_type="application/json")).status == 415
        assert (await ask(TRANSCRIPTIONS, form(model), **FORM, idempotency_key="k")).param == "Idempotency-Key"
        assert (await ask(TRANSCRIPTIONS, form(("model", b"nobody")), **FORM)).status == 404
        assert (await ask("/v1/jobs", {"endpoint": TRANSCRIPTIONS, "body": {}})).param == "endpoint"
        assert it.services[0].requests == []


async def test_where_the_backend_has_no_ear_its_client_is_told_so() -> None:
    async with night() as it:
        it.services[0].status = 405
        told = await Doors(it)(TRANSCRIPTIONS, form(("model", b"m")), **FORM)
        assert (told.status, told.json["error"]["code"]) == (501, "endpoint_missing")


# --- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name", "prefix"),
    [
        ("/v1/jobs", "after", ""),
        ("/v1/files", "after", "file-"),
        ("/v1/batches", "after", "batch_"),
        ("/v1/messages/batches", "after_id", "msgbatch_"),
        ("/v1/messages/batches", "before_id", "msgbatch_"),
    ],
)
async def test_a_list_goes_on_behind_an_id_also_where_that_is_gone_and_behind_nothing_else(
    path: str, name: str, prefix: str
) -> None:
    async with night() as it:
        ask = Doors(it)
        for cursor in ("nope", f"{prefix}nope", f"{prefix}0123456789abcdeI", f"other{prefix}0123456789abcdef"):
            told = await ask(f"{path}?{name}={cursor}")
            assert told.status == 400, cursor
            assert name in told.json["error"]["message"]
        for cursor in ("", f"{prefix}0123456789abcdef"):
            assert (await ask(f"{path}?{name}={cursor}")).json["data"] == []


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [({}, "http"), ({"x_forwarded_proto": "https"}, "https"), ({"x_forwarded_proto": "HTTPS, http"}, "https"),
     ({"x_forwarded_proto": "javascript"}, "http")],
)  # fmt: skip
async def test_where_results_are_is_told_as_the_client_came(headers: dict[str, str], scheme: str) -> None:
    async with night() as it:
        ask = Doors(it)
        params = {"model": "m", "max_tokens": 4, "messages": WORDS}
        made = (await ask("/v1/messages/batches", {"requests": [{"custom_id": "a", "params": params}]})).json
        path = f"/v1/messages/batches/{made['id']}"
        while (told := (await ask(path, **headers)).json)["processing_status"] != "ended":
            await it.clock.advance(0.1)
            await it.socket()
        assert told["results_url"] == f"{scheme}://localhost{path}/results"


async def test_a_batch_is_begun_once_for_a_key() -> None:
    async with night() as it:
        ask = Doors(it)
        params = {"model": "m", "max_tokens": 4, "messages": WORDS}
        asked = {"requests": [{"custom_id": "a", "params": params}]}
        first, again = [await ask("/v1/messages/batches", asked, idempotency_key="k") for _ in range(2)]
        assert (first.status, again.json["id"]) == (200, first.json["id"])
        other = await ask("/v1/messages/batches", {**asked, "more": 1}, idempotency_key="k")
        assert (other.status, other.json["type"]) == (422, "error")
        assert len((await ask("/v1/messages/batches")).json["data"]) == 1


async def test_a_batch_is_begun_in_few_words() -> None:
    async with night() as it:
        ask = Doors(it)
        told = await ask("/v1/batches", b'{"metadata":[' + b"[]," * 100_000 + b"1]}")
        assert (told.status, told.json["error"]["code"]) == (413, "request_too_large")
        for body, param in (({"endpoint": CHAT}, "input_file_id"), ({"input_file_id": 7}, "input_file_id"),
                            ({"output_expires_after": {}}, "output_expires_after")):  # fmt: skip
            told = await ask("/v1/batches", body)
            assert (told.status, told.param) == (400, param)
        assert (await ask("/v1/batches", b'{"input_file_id":"\xff"}')).param == "input_file_id"
        assert (await ask("/v1/batches", b"[]")).json["error"]["code"] == "invalid_json"


# --- jobs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/nowhere"}, "endpoint"),
        ({"body": {**BODIES[CHAT], "stream": True}}, "body.stream"),
        ({"body": {"model": "m"}}, "messages"),
        ({"metadata": ["a"]}, "metadata"),
        ({"validate_output": {"retries": 11}}, "validate_output.retries"),
        ({"max_attempts": 21}, "max_attempts"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"deadline": -1}, "x-deadline"),
        ({"more": 1}, None),
        ({"body": 7}, None),
    ],
)
async def test_what_describes_no_job_is_refused(changes: dict[str, Any], param: str | None) -> None:
    async with night(outputs=Checker([])) as it:
        told = await Doors(it)("/v1/jobs", {"endpoint": CHAT, "body": BODIES[CHAT], **changes})
        assert (told.status, told.param) == (400, param)


async def test_a_job_is_told_by_its_document_and_its_headers() -> None:
    async with night() as it:
        ask = Doors(it)
        document = {"endpoint": CHAT, "body": BODIES[CHAT], "priority": "batch", "deadline": 60, "max_attempts": 20}
        told = await ask("/v1/jobs", document, x_priority="high", x_client="me")
        assert (told.status, told.headers["location"]) == (202, f"/v1/jobs/{told.json['id']}")
        job = await it.job(told.json["id"])
        found = await terms(it, job.job.id)
        assert (job.job.priority, job.job.client, found.max_attempts) == (2, "me", 20)
        assert found.deadline_at == pytest.approx(it.clock.wall() + 60, abs=5)
        assert (await ask("/v1/jobs", b"{")).json["error"]["code"] == "invalid_json"


# --- taken is taken ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{"prefer": "respond-async"}, {"prefer": "respond-async, wait=5"}])
async def test_what_is_taken_is_told_also_where_the_store_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """An error would have the SDKs send it again: it would run twice."""
    async with night() as it:
        it.it.supervisor.pause_queue("for the test")
        ask = Doors(it)
        with monkeypatch.context() as slow:
            slow.setattr(it.store, "job", _busy)
            taken = [await ask(path, body, **headers) for path, body in BODIES.items()]
            taken.append(await ask("/v1/jobs", {"endpoint": CHAT, "body": BODIES[CHAT]}))
            background = await ask(RESPONSES, {**BODIES[RESPONSES], "background": True})
        assert [(each.status, each.json["status"]) for each in taken] == [(202, "queued")] * 4
        assert (background.status, background.json["status"]) == (200, "queued")
        it.it.supervisor.resume_queue()
        await it.ended(*(each.json["id"] for each in taken), background.headers["x-job-id"])


async def _busy(_job_id: str, *, bodies: bool = True) -> None:
    raise StoreUnavailableError("busy with other queries")


async def test_a_stream_of_a_response_begins_without_a_look_at_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    async with night() as it:
        monkeypatch.setattr(it.store, "job", _busy)
        told = await Doors(it)(RESPONSES, {**BODIES[RESPONSES], "background": True, "stream": True})
        assert told.status == 200
        assert told.body.endswith(b"}\n\n")
        assert b"event: response.completed" in told.body
