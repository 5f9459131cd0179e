"""How many tokens a request takes, counted by a backend's own tokenizer where it matters."""

from supervisord.core.errors import ContextLengthError, ProbeError
from supervisord.core.job import Submission
from supervisord.core.life import Phase
from supervisord.core.routing import Route
from supervisord.engine.backend import Backend
from supervisord.ports import HealthProbe
from supervisord.runtimes.base import Counting, HttpAnswer

COUNT_TIMEOUT_S = 5.0  # for each question; a 100 000 token prompt takes llama.cpp's tokenizer about 0.1 s
BYTES_PER_TOKEN = 3  # of a prompt that nobody counted: English is about 4, code and other scripts less
SMALL_SHARE = 0.05  # of a budget: a request that cannot take more is not worth counting
USUAL_ANSWER = 512  # tokens reserved for a request that sets no limit; congestion corrects what this misses


class Sizing:
    """Asks for counts only where a bound does not do: most requests are far too small to be worth a question."""

    def __init__(self, probe: HealthProbe) -> None:
        self._probe = probe

    async def tokens(self, route: Route, backends: list[Backend], submission: Submission) -> int:
        """Prompt and longest answer, for the budgets of `backends`; 0 where none of them has one.

        Raises ContextLengthError when the counted prompt fits into no backend of the route.
        """
        most = len(submission.body)  # a token is a byte at least
        budget = min((b for b in map(_budget, backends) if b is not None), default=None)
        counted: int | None = None
        if self._may_be_too_long(backends, most, submission.max_tokens):
            counted = await self._count(backends, submission)
            if counted is not None:
                _require_room(route, backends, counted, submission.max_tokens)
        if budget is None:
            return 0
        answer = submission.max_tokens or USUAL_ANSWER
        if counted is None and most > SMALL_SHARE * budget:
            counted = await self._count(backends, submission)
        return (most // BYTES_PER_TOKEN + 1 if counted is None else counted) + answer

    def needed(self, backends: list[Backend], submission: Submission) -> bool:
        """Whether `tokens` could say anything but 0. Asked for every request."""
        if any(_budget(b) is not None for b in backends):
            return True
        return self._may_be_too_long(backends, len(submission.body), submission.max_tokens)

    @staticmethod
    def _may_be_too_long(backends: list[Backend], most: int, max_tokens: int | None) -> bool:
        contexts = [b.known_context for b in backends]
        known = [context for context in contexts if context is not None]
        return bool(known) and len(known) == len(contexts) and most + (max_tokens or 0) >= max(known)

    async def _count(self, backends: list[Backend], submission: Submission) -> int | None:
        for backend in backends:
            if backend.state.phase is not Phase.READY or backend.generation is None:
                continue
            name = backend.spec.upstream_model or backend.spec.models[0]
            counting = backend.runtime.count(submission.endpoint, submission.body, name)
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


def _require_room(route: Route, backends: list[Backend], prompt: int, max_tokens: int | None) -> None:
    contexts = [(b, b.known_context) for b in backends]
    if any(context is None or b.runtime.fits(prompt, max_tokens, context) for b, context in contexts):
        return
    longest = max(context for _, context in contexts if context is not None)
    asked = f"{prompt} tokens of prompt" + (f" and max_tokens {max_tokens}" if max_tokens else "")
    raise ContextLengthError(
        f'This request is longer than the context of "{route.name}": {asked}, and the context is {longest} tokens. '
        "Shorten the prompt, or ask for a shorter answer.",
        param="messages",
    )
