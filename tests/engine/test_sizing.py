"""A request is counted where that matters, and not where a bound does."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from supervisord.core.errors import ContextLengthError
from supervisord.core.job import Form, Submission
from supervisord.core.ladder import Footprint
from supervisord.core.routing import Route
from supervisord.engine.prompts import MOST_COMMAS, TEXT, Prompt, prompts_of
from supervisord.engine.sizing import BYTES_OF_A_LONG_TOKEN, BYTES_PER_TOKEN, USUAL_ANSWER, Sizing
from supervisord.runtimes.base import BackendSpec, HttpAnswer
from tests.engine.rig import CHAT, Rig, beside, command, llama, remote, rig
from tests.engine.test_members import peak
from tests.fakes.engine import HANGS, Process

COUNTED = ["/apply-template", "/tokenize"]


def counts(tokens: int) -> Callable[[Process], None]:
    """A server whose tokenizer always says so."""

    def answers(process: Process) -> None:
        process.site.answers["/apply-template"] = HttpAnswer(200, b'{"prompt":"rendered"}')
        process.site.answers["/tokenize"] = HttpAnswer(200, json.dumps({"tokens": [1] * tokens}).encode())

    return answers


def chat(size: int, max_tokens: int | None = None) -> Submission:
    """A request of so many bytes."""
    body = json.dumps({"messages": [{"role": "user", "content": ""}]})
    filled = body.replace('""', '"' + "x" * (size - len(body)) + '"')
    return Submission(CHAT, "m", filled.encode(), max_tokens=max_tokens)


@asynccontextmanager
async def sized(
    *specs: BackendSpec, tokens: int = 100
) -> AsyncIterator[tuple[Rig, Callable[[Submission], "Asked"], Callable[[], list[str]]]]:
    """The engine with these backends up, serving one model; how to size a request; and what the tokenizers heard."""
    route = Route(("m",), tuple(spec.name for spec in specs))
    async with rig(*specs, routes=[route]) as it:
        it.processes.on_start = counts(tokens)
        for spec in specs:
            if it[spec.name].runtime.has_process:
                await it.up(spec.name)

        def ask(submission: Submission) -> Asked:
            return Asked(it, route, submission)

        def heard() -> list[str]:
            sites = [it.processes.of(spec.name).site for spec in specs if it.processes.count(spec.name)]
            return [path for site in sites for path, body in site.asked if body is not None]

        yield it, ask, heard


class Asked:
    """One question to the sizing."""

    def __init__(self, it: Rig, route: Route, submission: Submission) -> None:
        self._sizing = Sizing(it.supervisor.ports.probe)
        self._backends = it.supervisor.dispatcher.outlook.backends_of(route)
        self._route, self._submission = route, submission

    @property
    def needed(self) -> bool:
        return self._sizing.needed(self._backends, self._submission)

    async def tokens(self) -> int:
        return await self._sizing.tokens(self._route, self._backends, self._submission)


# --- only where it matters -------------------------------------------------------------------------------------------


async def test_a_request_that_fits_however_it_is_counted_is_not_counted() -> None:
    """A token is a byte at least. The context of a llama-server here is 4096."""
    async with sized(llama("a")) as (_, ask, heard):
        small = ask(chat(1000, max_tokens=3000))
        assert not small.needed
        assert await small.tokens() == 0
        assert heard() == []
        large = ask(chat(1000, max_tokens=3096))
        assert large.needed
        await large.tokens()
        assert heard() == COUNTED


def test_more_prompts_than_can_be_looked_at_are_taken_as_one() -> None:
    body = b'{"prompt":[' + b"[]," * (MOST_COMMAS + 1) + b"[]]}"
    one: list[tuple[Prompt, ...]] = []
    assert peak(lambda: one.append(prompts_of(Submission(TEXT, "m", body)))) < 4 * len(body)
    assert [len(prompts) for prompts in one] == [1]
    assert len(prompts_of(Submission(TEXT, "m", b'{"prompt":["a, b","c"]}'))) == 2


async def test_a_sound_is_not_counted_however_long_it_is() -> None:
    async with sized(llama("a", slots=4)) as (_, ask, _heard):
        long = chat(10_000_000)
        assert ask(long).needed
        assert not ask(replace(long, form=Form("multipart/form-data", 0, 0))).needed


async def test_with_one_slot_the_context_is_the_budget() -> None:
    async with sized(llama("a", slots=1)) as (_, ask, _heard):
        assert await ask(chat(5000)).tokens() == 0


async def test_where_nobody_knows_its_context_nothing_is_refused() -> None:
    async with sized(command("a"), command("b")) as (_, ask, heard):
        assert not ask(chat(1_000_000)).needed
        assert await ask(chat(1_000_000)).tokens() == 0
        assert heard() == []


async def test_one_whose_context_nobody_knows_may_be_large_enough() -> None:
    async with sized(llama("a"), remote("r"), tokens=5000) as (_, ask, _heard):
        assert not ask(chat(20_000)).needed


# --- too long --------------------------------------------------------------------------------------------------------


async def test_a_prompt_that_fits_nowhere_is_refused_with_its_figures() -> None:
    async with sized(llama("a"), tokens=4096) as (_, ask, _heard):
        with pytest.raises(ContextLengthError) as refused:
            await ask(chat(10_000)).tokens()
        assert "4096 tokens of prompt, and the context is 4096 tokens" in refused.value.message
        assert refused.value.param == "messages"
        with pytest.raises(ContextLengthError, match="prompt and max_tokens 50, and"):
            await ask(chat(10_000, max_tokens=50)).tokens()


async def test_a_prompt_that_was_only_long_in_bytes_is_served() -> None:
    async with sized(llama("a"), tokens=4095) as (_, ask, _heard):
        assert await ask(chat(10_000)).tokens() == 0


async def test_the_longest_context_of_a_model_decides() -> None:
    long = llama("long", footprint=Footprint(context=8192))
    async with sized(llama("short"), long, tokens=6000) as (it, ask, _heard):
        generation = it["long"].generation
        assert generation is not None
        generation.identity = replace(generation.identity, context_length=8192)
        assert await ask(chat(20_000)).tokens() == 0


async def test_a_context_that_shrank_on_the_ladder_is_the_one_that_counts() -> None:
    async with sized(llama("a", footprint=Footprint(context=8192)), tokens=5000) as (it, ask, _heard):
        assert it["a"].known_context == 4096, "what the server says of itself comes before what was configured"
        with pytest.raises(ContextLengthError):
            await ask(chat(10_000)).tokens()


# --- budgets ---------------------------------------------------------------------------------------------------------


async def test_a_small_request_is_booked_by_its_bytes() -> None:
    async with sized(llama("a", slots=4)) as (it, ask, heard):
        it["a"]._actor.policy = replace(it["a"].policy, token_budget=100_000)
        assert ask(chat(300)).needed
        assert await ask(chat(300)).tokens() == 300 // BYTES_PER_TOKEN + 1 + USUAL_ANSWER
        assert await ask(chat(300, max_tokens=7)).tokens() == 300 // BYTES_PER_TOKEN + 1 + 7
        assert heard() == []


async def test_a_large_one_is_counted_once() -> None:
    async with sized(llama("a", slots=4), tokens=900) as (it, ask, heard):
        it["a"]._actor.policy = replace(it["a"].policy, token_budget=10_000)
        assert await ask(chat(3000, max_tokens=100)).tokens() == 1000
        assert heard() == COUNTED
        heard_before = len(heard())
        assert await ask(chat(6000, max_tokens=100)).tokens() == 1000
        assert len(heard()) == heard_before + len(COUNTED), "too long perhaps, and large: one count does for both"


async def test_what_the_server_has_room_for_is_its_budget_unless_one_is_configured() -> None:
    async with sized(llama("a", slots=4), llama("b", slots=4)) as (it, ask, _heard):
        assert not ask(chat(300)).needed
        it["b"]._actor.state = replace(it["b"].state, capacity=50_000)
        assert ask(chat(300)).needed
        it["b"]._actor.policy = replace(it["b"].policy, token_budget=1000)
        assert ask(chat(300)).needed


# --- tokenizers that do not answer -----------------------------------------------------------------------------------


async def test_a_tokenizer_that_fails_is_no_reason_to_refuse() -> None:
    async with sized(llama("a", slots=4)) as (it, ask, _heard):
        it["a"]._actor.policy = replace(it["a"].policy, token_budget=1000)
        for broken in (HttpAnswer(500, b"oops"), HttpAnswer(200, b"[]"), HttpAnswer(200, b'{"tokens":7}')):
            it.processes.of("a").site.answers["/tokenize"] = broken
            assert await ask(chat(9000, max_tokens=1)).tokens() == 9000 // BYTES_PER_TOKEN + 2


async def test_a_tokenizer_that_hangs_costs_a_bounded_time() -> None:
    async with sized(llama("a")) as (it, ask, _heard):
        it.processes.of("a").site.answers["/apply-template"] = HANGS
        began = it.clock.monotonic()
        async with beside(ask(chat(9000)).tokens()) as asked:
            await it.pass_until(asked.done)
        assert it.clock.monotonic() - began <= 5.5
        assert asked.result() == 0


async def test_another_backends_tokenizer_is_asked_where_the_first_does_not_answer() -> None:
    async with sized(llama("a", slots=4), llama("b", slots=4), tokens=900) as (it, ask, _heard):
        it["a"]._actor.policy = replace(it["a"].policy, token_budget=2000)
        it.processes.of("a").ends(1)
        await it.clock.rest()
        assert await ask(chat(3000, max_tokens=100)).tokens() == 1000


async def test_nobody_is_asked_that_has_no_door_for_it() -> None:
    async with sized(command("a"), remote("r"), llama("b", slots=4), tokens=900) as (it, ask, heard):
        it["b"]._actor.policy = replace(it["b"].policy, token_budget=2000)
        assert await ask(chat(3000, max_tokens=100)).tokens() == 1000
        assert heard() == COUNTED


# --- several answers, several prompts --------------------------------------------------------------------------------


def text(prompt: object, max_tokens: int | None = None, choices: int = 1) -> Submission:
    body = json.dumps({"prompt": prompt}).encode()
    return Submission(TEXT, "m", body, max_tokens=max_tokens, choices=choices)


@asynccontextmanager
async def budgeted(budget: int, tokens: int = 100) -> AsyncIterator[tuple[Callable[[Submission], Asked], Rig]]:
    async with sized(llama("a", slots=4), tokens=tokens) as (it, ask, _heard):
        it["a"]._actor.policy = replace(it["a"].policy, token_budget=budget)
        yield ask, it


def tokenized(it: Rig) -> list[object]:
    """What the tokenizer was asked to count."""
    asked = [json.loads(body) for path, body in it.processes.of("a").site.asked if path == "/tokenize" and body]
    return [question["content"] for question in asked]


async def test_every_answer_is_reserved() -> None:
    async with budgeted(100_000) as (ask, _):
        prompt = 300 // BYTES_PER_TOKEN + 1
        assert await ask(replace(chat(300, max_tokens=100), choices=8)).tokens() == prompt + 800
        assert await ask(replace(chat(300), choices=3)).tokens() == prompt + 3 * USUAL_ANSWER


async def test_every_prompt_of_a_list_gets_its_answers() -> None:
    async with budgeted(100_000) as (ask, _):
        for prompt, answers in ((["Hi", "there"], 2), ([[1, 2], [3]], 2), (["Hi", [1]], 2), ([1, 2, 3], 1), ("Hi", 1)):
            asked = text(prompt, max_tokens=100, choices=3)
            assert await ask(asked).tokens() == len(asked.body) // BYTES_PER_TOKEN + 1 + 300 * answers, prompt


async def test_the_prompts_of_a_list_are_counted_in_one_question() -> None:
    async with budgeted(1000, tokens=50) as (ask, it):
        assert await ask(text(["one " * 100, 'two " \\ é', "three"], max_tokens=10)).tokens() == 50 + 30
        assert tokenized(it) == ["one " * 100 + ' two " \\ é three']
        assert await ask(text([[1, 2] * 100, [3]], max_tokens=10)).tokens() == 201 + 20
        mixed = text(["one " * 100, [3]], max_tokens=10)
        assert await ask(mixed).tokens() == len(mixed.body) // BYTES_PER_TOKEN + 1 + 20
        assert len(tokenized(it)) == 1, "numbers are tokens already"


async def test_each_prompt_of_a_list_has_a_context_of_its_own() -> None:
    async with sized(llama("a"), tokens=4096) as (it, ask, _heard):
        assert await ask(text(["x" * 3000, "y" * 3000])).tokens() == 0
        assert tokenized(it) == []
        with pytest.raises(ContextLengthError):
            await ask(text(["x" * 3000, "y" * 9000])).tokens()
        assert tokenized(it) == ["y" * 9000], "the longest of them decides"


async def test_the_longest_of_a_list_is_not_counted_for_all_of_it() -> None:
    async with budgeted(1000, tokens=50) as (ask, it):
        assert await ask(text(["x" * 3000, "y" * 5000], max_tokens=10)).tokens() == 50 + 20
        assert tokenized(it) == ["y" * 5000, "x" * 3000 + " " + "y" * 5000]


async def test_embeddings_are_all_prompt() -> None:
    async with budgeted(100_000) as (ask, _):
        body = json.dumps({"input": ["Hi", "there"] * 10}).encode()
        asked = ask(Submission("/v1/embeddings", "m", body, max_tokens=7, choices=2))
        assert await asked.tokens() == len(body) // BYTES_PER_TOKEN + 1


async def test_embeddings_of_many_texts_are_not_one_long_prompt() -> None:
    async with sized(llama("a"), tokens=5000) as (it, ask, _heard):
        many = json.dumps({"input": ["x" * 4000] * 100}).encode()
        assert await ask(Submission("/v1/embeddings", "m", many)).tokens() == 0
        assert tokenized(it) == []


async def test_an_answer_without_an_end_may_fill_its_context() -> None:
    async with budgeted(100_000) as (ask, _):
        assert await ask(chat(300, max_tokens=-1)).tokens() == 300 // BYTES_PER_TOKEN + 1 + 4096


# --- far too long ----------------------------------------------------------------------------------------------------

FAR = BYTES_OF_A_LONG_TOKEN * 4096


async def test_of_what_is_far_too_long_only_the_beginning_is_counted() -> None:
    async with sized(llama("a"), tokens=4096) as (it, ask, heard):
        for much in (chat(4 * FAR), text("é" * 2 * FAR)):
            with pytest.raises(ContextLengthError, match="more than 4096 tokens of prompt, and the context is 4096"):
                await ask(much).tokens()
        assert heard() == ["/tokenize", "/tokenize"]
        beginnings = tokenized(it)
        assert str(beginnings[0]).startswith('[{"role": "user", "content": "xxx'), "as it came, as plain text"
        assert all(isinstance(b, str) and FAR / 10 < len(b.encode()) <= FAR / 8 for b in beginnings)


async def test_what_is_long_in_bytes_and_short_in_tokens_is_left_to_the_server() -> None:
    async with budgeted(10_000, tokens=1000) as (ask, _):
        assert await ask(chat(4 * FAR, max_tokens=7)).tokens() == pytest.approx(32 * 1000 + 7, abs=1)


async def test_pictures_are_many_bytes_and_few_tokens() -> None:
    """The beginning of one, taken for text, would be longer than any context."""
    for content in (
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2 * FAR}},
        {"type": "input_audio", "input_audio": {"data": "A" * 2 * FAR, "format": "wav"}},
    ):
        body = json.dumps({"messages": [{"role": "user", "content": [content]}]}).encode()
        async with sized(llama("a"), tokens=4000) as (_, ask, heard):
            assert await ask(Submission(CHAT, "m", body)).tokens() == 0
            assert heard() == COUNTED, "its server renders it, and knows what it is"
