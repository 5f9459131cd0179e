"""The checking process: real, with the real validator. What it may not do is hold up, or outlive, the daemon."""

import asyncio
import io
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import pytest_asyncio
import referencing.exceptions
import uvloop

from supervisord.adapters.output_checker import OutputCheckProcess, child, schemas, worker
from supervisord.adapters.output_checker.frames import LENGTH, Question, packed
from supervisord.adapters.output_checker.schemas import flaw, misfit
from supervisord.adapters.output_checker.shares import KEPT, Shares, Who
from supervisord.core.errors import InvalidRequestError
from supervisord.core.output_check import Fits, Truncated, Wrong
from supervisord.core.output_forms import Json
from supervisord.core.terms import OutputCheck

CHAT = "/v1/chat/completions"
PERSON: dict[str, Json] = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "friends": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["age"],
    "additionalProperties": False,
}
ENDLESS: dict[str, Json] = {"pattern": "^(a|a)+$"}  # 2 to the power of the number of letters
LONG_WORD = json.dumps("a" * 60 + "b")
SLOW_MACHINE_S = 60.0


def asking(schema: Json) -> bytes:
    return json.dumps({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}).encode()


def answering(text: str, finish: str = "stop") -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish}]}).encode()


@pytest_asyncio.fixture
async def checker() -> AsyncIterator[OutputCheckProcess]:
    made = OutputCheckProcess(quick_s=SLOW_MACHINE_S, check_s=SLOW_MACHINE_S)
    yield made
    await made.close()


async def judged(
    checker: OutputCheckProcess, schema: Json, text: str, finish: str = "stop", client: str = "ada"
) -> object:
    return await checker.checked(OutputCheck(""), CHAT, asking(schema), answering(text, finish), client)


def is_alive(pid: int | None) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


def ticks_of(pid: int) -> int:
    """The processor's time that it used, in hundredths of a second."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


# --- through the process ---------------------------------------------------------------------------------------------


async def test_answers_are_held_against_their_schema(checker: OutputCheckProcess) -> None:
    assert await judged(checker, PERSON, '{"age": 3, "friends": [{"age": 4}]}') == Fits()
    told = await judged(checker, PERSON, '{"age": 3, "friends": [{"age": "old"}]}')
    assert told == Wrong("$.friends[0].age: 'old' is not of type 'integer'")
    assert isinstance(await judged(checker, PERSON, '{"age": ', "length"), Truncated)


async def test_what_cannot_be_checked_is_refused_when_it_is_asked_for(checker: OutputCheckProcess) -> None:
    await checker.accepts(OutputCheck(""), CHAT, asking(PERSON), "ada")
    with pytest.raises(InvalidRequestError, match=r"\$\.type: 'objct' is not valid") as told:
        await checker.accepts(OutputCheck(""), CHAT, asking({"type": "objct"}), "ada")
    assert told.value.param == "validate_output"
    with pytest.raises(InvalidRequestError) as told:
        await checker.accepts(OutputCheck(""), CHAT, b'{"stream": true}', "ada")
    assert told.value.param == "stream"


async def test_one_process_does_it_all_and_is_there_only_when_needed(checker: OutputCheckProcess) -> None:
    assert checker.pids == (None, None)
    await judged(checker, PERSON, "{}")
    first, slow = checker.pids
    assert slow is None
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(judged(checker, PERSON, f'{{"age": {n}}}')) for n in range(20)]
    assert [task.result() for task in asked] == [Fits()] * 20
    assert checker.pids == (first, None)
    await checker.close()
    assert not is_alive(first)
    await checker.close()


async def test_it_is_given_up_when_there_is_nothing_to_check() -> None:
    checker = OutputCheckProcess(idle_s=0.0)
    await judged(checker, PERSON, "{}")
    await asyncio.sleep(0.01)
    assert checker.pids == (None, None)
    assert await judged(checker, PERSON, '{"age": 1}') == Fits()
    await checker.close()


async def test_a_look_that_never_ends_is_ended_and_holds_up_nobody() -> None:
    checker = OutputCheckProcess(quick_s=0.1, check_s=0.5)
    loop = asyncio.get_running_loop()
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(loop.time())
            await asyncio.sleep(0.01)

    ticking = loop.create_task(tick())
    told = await judged(checker, ENDLESS, LONG_WORD)
    ticking.cancel()
    assert isinstance(told, Wrong)
    assert not told.again
    assert "took longer than 0.5 s" in told.message
    assert max(later - sooner for sooner, later in itertools.pairwise(ticks)) < 0.4
    assert checker.pids == (None, None)
    await checker.close()


async def test_a_schema_that_takes_for_ever_by_itself_is_refused() -> None:
    checker = OutputCheckProcess(quick_s=0.0, check_s=0.0)
    with pytest.raises(InvalidRequestError, match="The JSON Schema cannot be checked: that took longer than 0 s"):
        await checker.accepts(OutputCheck(""), CHAT, asking(PERSON), "ada")
    await checker.close()


async def test_one_that_was_killed_meanwhile_is_begun_again(checker: OutputCheckProcess) -> None:
    await judged(checker, PERSON, "{}")
    pid = checker.pids[0]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert await judged(checker, PERSON, '{"age": 1}') == Fits()


async def test_an_answer_that_kills_it_every_time_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_BEGIN", "raise SystemExit(3)")
    checker = OutputCheckProcess()
    told = await judged(checker, PERSON, "{}")
    assert told == Wrong("the answer could not be checked: the checking process ended with status 3", again=False)
    await checker.close()


async def test_where_no_process_can_be_begun_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    checker = OutputCheckProcess()
    told = await judged(checker, PERSON, "{}")
    assert isinstance(told, Wrong)
    assert "the checking process cannot be started: No such file or directory" in told.message
    await checker.close()


async def test_one_that_does_not_begin_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "START_S", 0.2)
    monkeypatch.setattr(child, "_BEGIN", "import time; time.sleep(600)")
    checker = OutputCheckProcess()
    told = await judged(checker, PERSON, "{}")
    assert isinstance(told, Wrong)
    assert "has not begun within 0.2 s" in told.message
    await checker.close()


async def test_whoever_leaves_does_not_leave_a_reply_for_the_next(checker: OutputCheckProcess) -> None:
    """Nor has the next to wait for a process that is begun anew: the look goes on, and its reply is nobody's."""
    await judged(checker, PERSON, "{}")
    first = checker.pids[0]
    leaving = asyncio.get_running_loop().create_task(judged(checker, PERSON, '{"age": "old"}'))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await judged(checker, PERSON, '{"age": 1}') == Fits()
    assert checker.pids[0] == first


async def test_who_leaves_while_others_are_looked_at_is_not_looked_at(checker: OutputCheckProcess) -> None:
    await judged(checker, PERSON, "{}")
    loop = asyncio.get_running_loop()
    first = loop.create_task(judged(checker, PERSON, '{"age": 1}'))
    leaving = loop.create_task(judged(checker, ENDLESS, LONG_WORD))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await first == Fits()
    assert await judged(checker, PERSON, '{"age": 1}') == Fits()
    assert leaving.cancelled()


# --- one client and another ------------------------------------------------------------------------------------------


async def test_what_takes_for_ever_for_one_leaves_the_others_their_time() -> None:
    """A batch whose pattern takes for ever, all of it waiting: with one line for all, the others come after it."""
    checker = OutputCheckProcess(quick_s=1.0, check_s=2 * SLOW_MACHINE_S)
    loop = asyncio.get_running_loop()
    await judged(checker, PERSON, "{}")
    batch = [loop.create_task(judged(checker, ENDLESS, LONG_WORD, client="batch")) for _ in range(100)]
    await asyncio.sleep(0)
    async with asyncio.timeout(SLOW_MACHINE_S):  # the batch alone takes longer until it is in the slow process
        for n in range(20):
            assert await judged(checker, PERSON, f'{{"age": {n}}}', client="bob") == Fits()
        await checker.accepts(OutputCheck(""), CHAT, asking(PERSON), "batch")  # its own new ones do not wait for it
    assert not any(task.done() for task in batch)
    await checker.close()
    told = await asyncio.wait_for(asyncio.wait(batch), SLOW_MACHINE_S)
    assert {task.result() for task in told[0]} == {
        Wrong("the answer could not be checked: the checking process was ended", again=False)
    }


async def test_a_process_that_cannot_be_begun_again_is_told_to_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = OutputCheckProcess(quick_s=1.0, check_s=1.0)
    loop = asyncio.get_running_loop()
    await judged(checker, PERSON, "{}")
    endless = loop.create_task(judged(checker, ENDLESS, LONG_WORD))
    waiting = loop.create_task(judged(checker, PERSON, "{}", client="bob"))
    await asyncio.sleep(0)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert await waiting == Wrong(
        "the answer could not be checked: the checking process cannot be started: No such file or directory",
        again=False,
    )
    assert isinstance(await endless, Wrong)
    monkeypatch.undo()
    assert await judged(checker, PERSON, '{"age": 1}') == Fits()
    await checker.close()


async def test_a_look_that_needs_longer_than_a_quick_one_has_the_time() -> None:
    checker = OutputCheckProcess(quick_s=0.0, check_s=SLOW_MACHINE_S)
    assert await judged(checker, PERSON, '{"age": 1}') == Fits()
    assert checker.pids[0] is None
    assert checker.pids[1] is not None
    await checker.close()


def shares(*who: Who) -> Shares[int]:
    made: Shares[int] = Shares()
    for n, each in enumerate(who):
        made.add(each, n)
    return made


ADA, BOB, CYD = ("ada", False), ("bob", False), ("cyd", False)


def order(line: Shares[int], *seconds: float) -> list[int]:
    taken = []
    for each in seconds:
        who, item = line.take()
        taken.append(item)
        line.spent(who, each)
    return taken


def test_whoever_has_had_the_least_time_is_next() -> None:
    line = shares(ADA, ADA, BOB, BOB, BOB, BOB)
    assert order(line, 0.75, 0.25, 0.25, 0.25, 0.25) == [0, 2, 3, 4, 1], "then each has had 0.75 s"
    assert order(line, 0.1) == [5]
    assert not line


def test_who_comes_anew_has_saved_up_nothing_and_owes_what_was_taken() -> None:
    line = shares(ADA, ADA, BOB, BOB)
    assert order(line, 1.0, 5.0) == [0, 2]
    line.add(CYD, 9)
    line.add(CYD, 10)
    assert order(line, 2.0, 0.1) == [9, 1]
    assert order(line, 0.1, 0.1) == [10, 3]


def test_who_waited_for_nothing_owes_nothing() -> None:
    line = shares(ADA)
    assert order(line, 10.0) == [0]
    line.add(ADA, 1)
    line.add(BOB, 2)
    assert order(line, 0.1, 0.1) == [1, 2]


def test_who_leaves_is_passed_over() -> None:
    line = shares(ADA, ADA, BOB)
    line.remove(ADA, 0)
    line.remove(BOB, 2)
    line.remove(CYD, 7)
    assert order(line, 0.1) == [1]
    assert not line


def test_clients_that_came_once_are_forgotten() -> None:
    line = shares(ADA, ADA)
    for n in range(KEPT * 3):
        line.add((str(n), False), n)
        order(line, 0.01)
    assert len(line._begins) <= KEPT + 2


async def test_it_does_not_outlive_the_daemon(tmp_path: Path) -> None:
    """It computes for ever when the daemon is killed: the end of its stdin would never be read."""
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(child.__file__).parents[3])!r})
from supervisord.adapters.output_checker import OutputCheckProcess
from supervisord.core.terms import OutputCheck
async def main():
    checker = OutputCheckProcess(quick_s=600)
    await checker.checked(OutputCheck(""), {CHAT!r}, {asking(PERSON)!r}, b"", "")
    print(checker.pids[0], flush=True)
    await checker.checked(OutputCheck(""), {CHAT!r}, {asking(ENDLESS)!r}, {answering(LONG_WORD)!r}, "")
asyncio.run(main())
"""
    daemon = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert daemon.stdout is not None
    pid = int(await daemon.stdout.readline())
    limit = time.monotonic() + SLOW_MACHINE_S
    before = ticks_of(pid)
    while ticks_of(pid) < before + 20 and time.monotonic() < limit:  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(0.01)
    assert ticks_of(pid) >= before + 20, "it is in the middle of the question that never ends"
    daemon.kill()
    await daemon.wait()
    limit = time.monotonic() + 5.0
    while is_alive(pid) and time.monotonic() < limit:  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(0.01)
    assert not is_alive(pid)


def test_it_works_on_the_loop_that_the_daemon_uses() -> None:
    async def scenario() -> None:
        checker = OutputCheckProcess(check_s=SLOW_MACHINE_S)
        assert await judged(checker, PERSON, '{"age": 1}') == Fits()
        pid = checker.pids[0]
        await checker.close()
        assert not is_alive(pid)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


# --- what it does with each question ---------------------------------------------------------------------------------


def replies(*questions: bytes) -> list[bytes]:
    out = io.BytesIO()
    worker.serve(io.BytesIO(b"".join(questions)), out)
    data, found = out.getvalue(), []
    while data:
        end = LENGTH.size + LENGTH.unpack(data[: LENGTH.size])[0]
        found.append(data[LENGTH.size : end])
        data = data[end:]
    return found


def test_every_question_has_one_reply_after_the_first_word() -> None:
    check, request = OutputCheck(""), asking(PERSON)
    told = replies(
        packed(Question(check, CHAT, request, None)),
        packed(Question(check, CHAT, request, answering('{"age": 1}'))),
        packed(Question(check, CHAT, request, answering("{}"))),
        packed(Question(check, CHAT, request, answering("{", "length"))),
        packed(Question(check, CHAT, asking([]), None)),
        packed(Question(check, "/v1/nothing", request, b"")),
        b"\x00\x00\x00\x02no",
    )
    kinds = ["ready", "accepted", "fits", "wrong", "truncated", "refused", "failed", "failed"]
    assert all(kind.encode() in reply for kind, reply in zip(kinds, told, strict=True))
    assert b"failed with KeyError" in told[6]


def test_an_answer_that_needs_all_the_memory_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_gone(schema: Json, value: Json) -> str:
        raise MemoryError

    monkeypatch.setattr(worker, "misfit", all_gone)
    told = replies(packed(Question(OutputCheck(""), CHAT, asking(PERSON), answering("{}"))))
    assert b"it takes more than 2 GiB of memory" in told[1]


# --- JSON Schema -----------------------------------------------------------------------------------------------------

DRAFT_07 = "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        PERSON,
        {"$schema": DRAFT_07, "$ref": "#/definitions/a", "definitions": {"a": {"type": "string"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$anchor": "here", "items": {"$ref": "#here"}}}},
        {"$id": "https://example.org/a", "items": {"$ref": "a"}},
        {"properties": {"$ref": {"type": "string"}}},
    ],
)
def test_schemas_that_are_whole_have_no_flaw(schema: Json) -> None:
    assert flaw(schema) == ""


def test_a_schema_is_looked_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 50 000 lines mostly has one, and each look at it takes milliseconds."""
    schema: Json = {"const": "seen by no other test"}
    assert flaw(schema) == ""
    monkeypatch.delattr(schemas, "_flaw")
    assert flaw(schema) == ""


def test_a_long_schema_is_looked_over_but_not_kept() -> None:
    schema: Json = {"const": "x" * schemas.LONGEST_REMEMBERED}
    before = schemas._known_flaw.cache_info().currsize
    assert flaw(schema) == ""
    assert schemas._known_flaw.cache_info().currsize == before


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (3, "neither an object"),
        ({"type": "objct"}, "$.type"),
        ({"pattern": "("}, "is not a 'regex'"),
        ({"$schema": "https://example.org/mine"}, "no draft of JSON Schema"),
        ({"$schema": 7}, "no draft of JSON Schema"),
        ({"$ref": "https://example.org/x.json"}, 'refers to "https://example.org/x.json", which is not in it'),
        ({"items": {"$ref": "#/$defs/none"}}, 'refers to "#/$defs/none"'),
        ({"$schema": DRAFT_07, "properties": {"a": {"$ref": "other.json"}}}, 'refers to "other.json"'),
    ],
)
def test_what_cannot_be_used_says_why(schema: Json, why: str) -> None:
    assert why in flaw(schema)


def test_nothing_is_ever_fetched() -> None:
    """Not even by what would be asked before it was looked over: `flaw` refuses such a schema."""
    knocked = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            with suppress(OSError), closing(listener.accept()[0]) as peer:
                knocked.set()
                peer.recv(65536)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(referencing.exceptions.Unresolvable):
            misfit({"$ref": f"http://127.0.0.1:{listener.getsockname()[1]}/x.json"}, 3)
        assert not knocked.is_set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(SLOW_MACHINE_S)


@pytest.mark.parametrize("depth", [5000, 200_000])
def test_depth_ends_in_words(depth: int) -> None:
    deep: Json = {}
    for _ in range(depth):
        deep = {"items": deep}
    assert flaw(deep) == "it is nested too deeply"
    assert "refers to itself without an end" in misfit({"$ref": "#"}, 3)


def test_the_draft_that_a_schema_names_is_the_one_that_counts() -> None:
    """In draft 7 `items` as a list told of each place; since 2020-12 that is `prefixItems`."""
    assert misfit({"$schema": DRAFT_07, "items": [{"type": "string"}]}, [3]) == "$[0]: 3 is not of type 'string'"
    assert misfit({"prefixItems": [{"type": "string"}]}, [3]) == "$[0]: 3 is not of type 'string'"


def test_the_deepest_fault_is_told_where_it_is() -> None:
    schema: Json = {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"n": {"maximum": 5}}}]}
    assert misfit(schema, {"n": 7}) == "$.n: 7 is greater than the maximum of 5"
    assert misfit(False, 1) == "$: False schema does not allow 1"
