"""The daemon's side: a process for looks that are quick, as nearly all are, and one for those that are not."""

from supervisord.adapters.output_checker.frames import Question, Reply
from supervisord.adapters.output_checker.lane import Lane
from supervisord.core.errors import InvalidRequestError
from supervisord.core.output_check import PARAM, Fits, Truncated, Verdict, Wrong
from supervisord.core.terms import OutputCheck

QUICK_S = 0.5  # seen: 0.7 ms for a small answer
CHECK_S = 10.0  # for one look that is not quick; seen: 1.2 s for 1 MB in 16 000 objects
IDLE_S = 60.0  # then the 30 MB of a process are given back


class OutputCheckProcess:
    """`ports.OutputChecker`. `quick_s`, `check_s`, `idle_s`: seconds, as above.

    Each process looks at one answer at a time. What is not done within `quick_s` begins anew in the slow one, so that
    a pattern that takes for ever has the answers of others wait for half a second, and its own for each other. In both
    every client has its share of the time, whatever another asks.
    """

    def __init__(self, *, quick_s: float = QUICK_S, check_s: float = CHECK_S, idle_s: float = IDLE_S) -> None:
        self._check_s = check_s
        self._quick = Lane(quick_s, idle_s)
        self._slow = Lane(check_s, idle_s)

    @property
    def pids(self) -> tuple[int | None, int | None]:
        """Of the quick one and of the slow one, while there are any."""
        return self._quick.pid, self._slow.pid

    async def accepts(self, check: OutputCheck, endpoint: str, request: bytes, client: str) -> None:
        """See `ports.OutputChecker`."""
        reply = await self._ask(Question(check, endpoint, request, None), client)
        if reply.kind != "accepted":
            raise InvalidRequestError(
                reply.message if reply.kind == "refused" else f"The JSON Schema cannot be checked: {reply.message}.",
                param=reply.param or PARAM,
            )

    async def checked(self, check: OutputCheck, endpoint: str, request: bytes, answer: bytes, client: str) -> Verdict:
        """See `ports.OutputChecker`."""
        reply = await self._ask(Question(check, endpoint, request, answer), client)
        match reply.kind:
            case "fits":
                return Fits()
            case "wrong":
                return Wrong(reply.message)
            case "truncated":
                return Truncated(reply.message)
            case _:
                return Wrong(f"the answer could not be checked: {reply.message}", again=False)

    async def close(self) -> None:
        """End both."""
        await self._quick.close()
        await self._slow.close()

    async def _ask(self, question: Question, client: str) -> Reply:
        who = client, question.answer is None
        reply = await self._quick.ask(who, question) or await self._slow.ask(who, question)
        if reply is None:
            words = f"that took longer than {self._check_s:g} s; simplify the schema, its patterns first"
            return Reply("failed", words)
        return reply
