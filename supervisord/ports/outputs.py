"""Whether answers are what their requests asked for."""

from typing import Protocol

from supervisord.core.output_check import Verdict
from supervisord.core.terms import OutputCheck


class OutputChecker(Protocol):
    """Holds answers against JSON Schemas. Both come from outside, and can take for ever: each look is bounded.

    `client`: whose it is; however long the looks of one take, those of another have their share of the time.
    """

    async def accepts(self, check: OutputCheck, endpoint: str, request: bytes, client: str) -> None:
        """Raises InvalidRequestError where an answer to `request` could not be checked as asked."""
        ...

    async def checked(self, check: OutputCheck, endpoint: str, request: bytes, answer: bytes, client: str) -> Verdict:
        """What a backend's whole answer is worth. Raises nothing: what cannot be checked in time is Wrong."""
        ...

    async def close(self) -> None: ...
