"""The doors of files and batches, open, over a store in memory; jobs end as a test says."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

import openai

from supervisord.adapters.clock import LoopClock
from supervisord.api.batches import BatchesDoor
from supervisord.api.door import Door, DoorLimits
from supervisord.api.files import FilesDoor
from supervisord.api.keys import public_door
from supervisord.core.errors import InvalidRequestError, ModelNotFoundError
from supervisord.core.job import Submission
from supervisord.core.keys import Key
from supervisord.core.terms import OutputCheck
from supervisord.engine.batching.batches import Batches
from supervisord.engine.journal import Journal
from supervisord.engine.tasks import Tasks
from tests.fakes.hands import Hands
from tests.fakes.store import MemoryStore

PATIENCE_S = 10.0


def _known(wanted: Submission) -> None:
    if wanted.model != "m":
        raise ModelNotFoundError(f'No backend serves the model "{wanted.model}".', param="model")


async def _checkable(check: OutputCheck, endpoint: str, body: bytes, client: str) -> None:
    del endpoint, body, client
    if check.schema == '"none"':
        raise InvalidRequestError("That is no schema.", param="validate_output")


@dataclass(frozen=True, slots=True)
class BatchHouse:
    """What is behind the address `url`."""

    url: str
    store: MemoryStore
    hands: Hands
    batches: Batches

    def client(self, key: str = "none") -> openai.AsyncOpenAI:
        """The official client, that tells every failure at once."""
        return openai.AsyncOpenAI(base_url=self.url + "/v1", api_key=key, max_retries=0)

    async def jobs(self, number: int) -> None:
        """Returns once so many jobs were made in all."""
        await until(lambda: len(self.hands.accepted) >= number)


async def until(reached: Callable[[], object]) -> None:
    """For what sockets bring about."""
    async with asyncio.timeout(PATIENCE_S):
        while not reached():  # noqa: ASYNC110 - the store in memory has no event of ours
            await asyncio.sleep(0)


@asynccontextmanager
async def batch_house(
    *, keys: Sequence[Key] = (), upload_limit: int = 10**9, stall_s: float = 5.0
) -> AsyncIterator[BatchHouse]:
    """Closed at the end; no bug may have been told."""
    loop, bugs = asyncio.get_running_loop(), list[str]()
    loop.set_exception_handler(lambda _loop, context: bugs.append(repr(context.get("exception"))))
    clock, store, ids = LoopClock(), MemoryStore(), count(1)
    await store.open()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    async with asyncio.TaskGroup() as group:
        hands, tasks = Hands(store), Tasks(group)
        batches = Batches(
            store,
            hands,
            Journal(store, clock),
            clock,
            new_id=lambda: f"{next(ids):016}",
            known=_known,
            checkable=_checkable,  # type: ignore[arg-type]
        )
        await batches.open(tasks)
        running = tasks.loop(batches.run(), "batches")
        tables = (FilesDoor(batches.files, limit=upload_limit, stall_s=stall_s).table, BatchesDoor(batches).table)
        door = Door(public_door(tables, frozenset(), keys, Counter()), DoorLimits(body_bytes=10_000), clock)
        await door.open(listener, 16)
        try:
            yield BatchHouse(f"http://127.0.0.1:{listener.getsockname()[1]}", store, hands, batches)
        finally:
            await door.close(1.0)
            running.cancel()
    assert not bugs
