"""The way of each batch from its file to its end: a task each, so that none waits for another."""

import asyncio
from collections.abc import Callable

from supervisord.core import batch as moves
from supervisord.core.errors import ConflictError, QueueFullError, RefusedError
from supervisord.core.record import BatchRecord
from supervisord.engine.batching.course import Course
from supervisord.engine.batching.steps import LOOK_S, Steps
from supervisord.engine.work.durable import Durable, End
from supervisord.ports import Clock, Store

AGAIN_S = 2.0  # after a step was refused by the store
ROOM_S = 10.0  # where there is no room for more jobs: what has to be read again may be long, and nothing is in a hurry


class Courses:
    """Of all batches that have not ended."""

    def __init__(self, store: Store, durable: Durable, clock: Clock, steps: Steps) -> None:
        self._store = store
        self._clock = clock
        self._steps = steps
        self._open: dict[str, Course] = {}
        self._start: Callable[[Course], object] | None = None
        durable.on_ended(self._on_ended)

    def __len__(self) -> int:
        return len(self._open)

    def of(self, batch_id: str) -> Course | None:
        """None: it has ended, or never was."""
        return self._open.get(batch_id)

    def read(self, file_id: str) -> bool:
        """Whether one of them has still to read a file."""
        return any(course.batch.input_file == file_id and not course.has_jobs for course in self._open.values())

    def add(self, batch: BatchRecord) -> Course:
        """One more. It is taken forward from now on; a new one as soon as its first write is over."""
        left = max(0.0, batch.expires_at - self._clock.wall())
        course = Course(batch, self._store, self._clock.monotonic() + left)
        self._open[batch.id] = course
        if self._start is not None:
            self._start(course)
        return course

    async def cancel(self, course: Course) -> BatchRecord:
        """Soon what waits is ended, and what runs cut off. Raises ConflictError where it is over, RefusedError."""
        try:
            return await course.change(lambda present: moves.cancelled(present, self._clock.wall()))
        finally:  # also where its client has left by now: it may be stored
            course.news.set()

    async def run(self) -> None:
        """Take them forward, for ever."""
        async with asyncio.TaskGroup() as group:
            self._start = lambda course: group.create_task(self._see_through(course), name=course.batch.id)
            for course in self._open.values():
                self._start(course)
            await asyncio.Event().wait()

    async def _see_through(self, course: Course) -> None:
        """From here to its end."""
        while True:
            course.news.clear()
            pause = await self._step(course)
            if pause is None:
                break
            try:
                async with asyncio.timeout(pause):
                    await course.news.wait()
            except TimeoutError:
                continue
        del self._open[course.batch.id]

    async def _step(self, course: Course) -> float | None:
        try:
            return await self._steps.take_further(course)
        except QueueFullError:
            pause = ROOM_S
        except (RefusedError, ConflictError):
            pause = AGAIN_S
        except Exception as error:  # noqa: BLE001 - a bug over one input must not end the daemon, each time it starts
            words = f"batch {course.batch.id} cannot be taken further because of a bug; it is tried again in a minute"
            asyncio.get_running_loop().call_exception_handler({"message": words, "exception": error})
            pause = LOOK_S
        left = course.ends_at - self._clock.monotonic()
        return min(pause, left) if left > 0 else pause

    def _on_ended(self, end: End) -> None:
        course = self._open.get(end.job.terms.batch) if end.job.terms is not None else None
        if course is not None:
            course.ended += 1
            if course.ended >= course.unfinished:
                course.news.set()
