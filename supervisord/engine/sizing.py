"""How many tokens a request takes, counted by a backend's own tokenizer where it matters."""

from dataclasses import dataclass, replace

from supervisord.core.errors import ContextLengthError, ProbeError
from supervisord.core.job import Job, Submission
from supervisord.core.request import ENDPOINTS
from supervisord.core.routing import Route
from supervisord.core.state import Phase
from supervisord.engine.backend import Backend
from supervisord.engine.prompts import Prompt, prompts_of, together
from supervisord.ports import HealthProbe
from supervisord.runtimes.base import Counting, HttpAnswer

COUNT_TIMEOUT_S = 5.0  # for each question; a 100 000 token prompt takes llama.cpp's tokenizer about 0.1 s
BYTES_PER_TOKEN = 3  # of a prompt that nobody counted: English is about 4, code and other scripts less
SMALL_SHARE = 0.05  # of a budget: a request that cannot take more is not worth counting
BYTES_OF_A_LONG_TOKEN = 64  # a long run of spaces: no text is of such tokens all through
BYTES_TO_BE_SURE = 8  # for each token of a context: twice what English takes, so that it is soon counted
USUAL_ANSWER = 512  # tokens reserved for a request that sets no limit; congestion corrects what this misses


@dataclass(frozen=True, slots=True)
class Count:
    """Tokens of a prompt. `least` is what was counted, `likely` what it makes for the whole."""

    least: int
    likely: int


class Sizing:
    """Asks for counts only where a bound does not do: most requests are far too small to be worth a question."""

    def __init__(self, probe: HealthProbe) -> None:
        self._probe = probe

    async def tokens(self, route: Route, backends: list[Backend], submission: Submission) -> int:
        """Prompts and longest answers, for the budgets of `backends`; 0 where none of them has one.

        Raises ContextLengthError when a counted prompt fits into no backend of the route.
        """
        prompts = prompts_of(submission)
        several = len(prompts) > 1
        longest = max(prompts, key=lambda prompt: len(prompt.text))
        most, all_bytes = (len(longest.text) if several else len(submission.body)), len(submission.body)
        budget = min((b for b in map(_budget, backends) if b is not None), default=None)
        counted: Count | None = None
        if self._may_be_too_long(backends, most, submission.max_tokens):
            counted = await self._count(backends, longest)
            if counted is not None:
                _require_room(route, backends, counted, submission.max_tokens)
        if budget is None:
            return 0
        if several or counted is None:
            counted = await self._count(backends, together(prompts)) if all_bytes > SMALL_SHARE * budget else None
        asked = all_bytes // BYTES_PER_TOKEN + 1 if counted is None else counted.likely
        return asked + _answers(backends, submission, len(prompts))

    async def sized(self, job: Job, route: Route, backends: list[Backend]) -> Job:
        """The job with its size, where a backend's budget or context makes that matter. Raises ContextLengthError."""
        if not self.needed(backends, job.submission):
            return job
        return replace(job, tokens=await self.tokens(route, backends, job.submission))

    def needed(self, backends: list[Backend], submission: Submission) -> bool:
        """Whether `tokens` could say anything but 0. Asked for every request; of a sound nobody knows."""
        if submission.form is not None:
            return False
        if any(_budget(b) is not None for b in backends):
            return True
        return self._may_be_too_long(backends, len(submission.body), submission.max_tokens)

    @staticmethod
    def _may_be_too_long(backends: list[Backend], most: int, max_tokens: int | None) -> bool:
        """`most` bytes of prompt: a token is a byte at least."""
        known = _known(backends)
        return bool(known) and len(known) == len(backends) and most + max(max_tokens or 0, 0) >= max(known)

    async def _count(self, backends: list[Backend], prompt: Prompt) -> Count | None:
        """Of one that is far beyond every context only the beginning: its tokenizer would take minutes for it all."""
        size, longest = len(prompt.text), max(_known(backends), default=0)
        if not longest or size <= BYTES_OF_A_LONG_TOKEN * longest or not prompt.is_text:
            count = await self._asked(backends, prompt)
            return None if count is None else Count(count, count)
        enough = BYTES_TO_BE_SURE * longest
        count = await self._asked(backends, prompt.beginning(enough))
        return None if count is None else Count(count, count * size // enough)

    async def _asked(self, backends: list[Backend], prompt: Prompt) -> int | None:
        for backend in backends:
            if backend.state.phase is not Phase.READY or backend.generation is None:
                continue
            name = backend.spec.upstream_model or backend.spec.models[0]
            counting = backend.runtime.count(prompt.endpoint, prompt.members, name)
            if counting is not None and (count := await self._ask(backend, counting)) is not None:
                return count
        return None

    async def _ask(self, backend: Backend, counting: Counting) -> int | None:
        """Run the questions of a count to their end; None when they are not answered."""
        generation = backend.generation
        if generation is None:
            return None
        answer: HttpAnswer | None = None
        try:
            while True:
                call = next(counting) if answer is None else counting.send(answer)
                answer = await self._probe.post(generation.address, call.path, call.body, COUNT_TIMEOUT_S)
        except StopIteration as done:
            return done.value if isinstance(done.value, int) else None
        except ProbeError:
            return None


def _budget(backend: Backend) -> int | None:
    if backend.spec.slots == 1:
        return None  # one request at a time: its context is its budget
    return backend.policy.token_budget or backend.state.capacity


def _known(backends: list[Backend]) -> list[int]:
    """The contexts of those that told, in tokens."""
    return [context for b in backends if (context := b.known_context) is not None]


def _answers(backends: list[Backend], submission: Submission, prompts: int) -> int:
    """Tokens of all answers together."""
    if not ENDPOINTS[submission.endpoint].length:
        return 0  # embeddings: the prompt is all there is
    each = submission.max_tokens or USUAL_ANSWER
    if each < 0:  # without an end, that of its context aside
        each = max(_known(backends), default=USUAL_ANSWER)
    return each * submission.choices * prompts


def _require_room(route: Route, backends: list[Backend], count: Count, max_tokens: int | None) -> None:
    contexts = [(b, b.known_context) for b in backends]
    if any(context is None or b.runtime.fits(count.least, max_tokens, context) for b, context in contexts):
        return
    longest = max(context for _, context in contexts if context is not None)
    more = "more than " if count.likely > count.least else ""
    asked = f"{more}{count.least} tokens of prompt" + (f" and max_tokens {max_tokens}" if max_tokens else "")
    raise ContextLengthError(
        f'This request is longer than the context of "{route.name}": {asked}, and the context is {longest} tokens. '
        "Shorten the prompt, or ask for a shorter answer.",
        param="messages",
    )
