"""What the runs of all durable jobs share."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from supervisord.core.errors import InvalidRequestError
from supervisord.core.job import Priority, Submission
from supervisord.core.record import JobRecord, JobResult
from supervisord.core.request import choices
from supervisord.core.terms import Origin
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.journal import Journal
from supervisord.engine.members import members_of
from supervisord.engine.sizing import Sizing
from supervisord.engine.tries import Tries
from supervisord.engine.work.backlog import Backlog
from supervisord.engine.work.bulletin import Bulletin
from supervisord.engine.work.deadlines import Deadlines
from supervisord.engine.work.kept import GiveUp, MakeRecorder, Recorder
from supervisord.ports import Clock, Store
from supervisord.ports.outputs import OutputChecker


@dataclass(frozen=True, slots=True)
class Hands:
    """What all runs share. `over` is told of each result that was handed to the store."""

    dispatcher: Dispatcher
    tries: Tries
    sizing: Sizing
    store: Store
    backlog: Backlog
    bulletin: Bulletin
    journal: Journal
    clock: Clock
    deadlines: Deadlines
    outputs: OutputChecker | None
    recorders: Mapping[Origin, MakeRecorder]
    over: Callable[[JobRecord, JobResult], None]
    suspects: Mapping[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))


def recorder(job: JobRecord, tried: int, hands: Hands, give_up: GiveUp) -> Recorder:
    """Whoever keeps the answer of a job, by where it came from."""
    origin = job.terms.origin if job.terms is not None else Origin.JOB
    return hands.recorders[origin](job, tried, give_up)


def submission_of(job: JobRecord) -> Submission:
    """What was asked for, as it was accepted."""
    body = job.body or b""
    return Submission(
        endpoint=job.endpoint,
        model=job.model,
        body=body,
        stream=job.stream,
        priority=Priority(job.priority),
        client=job.client,
        max_tokens=job.max_tokens,
        choices=_choices(body),
        temperature=job.temperature,
    )


def _choices(body: bytes) -> int:
    """As they are asked for, in a body that was found good when it was accepted: perhaps by a reader that stood less
    deep in calls, which count like levels of nesting. Whoever needs more of it than this fails that job alone.
    """
    try:
        return choices(members_of(body)) if body else 1
    except InvalidRequestError:
        return 1
