"""What a process tells its backend, in an order that makes sense."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from supervisord.engine.generation import Generation


class Listener(Protocol):
    """The backend that started it."""

    def leader_exited(self, generation: Generation, status: int) -> None: ...

    def tree_gone(self, generation: Generation) -> None: ...

    def printed(self, generation: Generation, line: str) -> None: ...


class Output:
    """`ports.ProcessEvents` of one generation. Holds back an end that comes before the start has been told."""

    def __init__(self, backend: Listener, generation: Generation) -> None:
        self._backend = backend
        self._generation = generation
        self._held: list[Callable[[], None]] | None = []

    def exited(self, status: int) -> None:
        self._tell(partial(self._backend.leader_exited, self._generation, status))

    def tree_gone(self) -> None:
        self._tell(partial(self._backend.tree_gone, self._generation))

    def _tell(self, call: Callable[[], None]) -> None:
        if self._held is None:
            call()
        else:
            self._held.append(call)

    def release(self) -> None:
        """The start has been told."""
        held, self._held = self._held, None
        for call in held or ():
            call()

    def output(self, line: str) -> None:
        self._backend.printed(self._generation, line)
