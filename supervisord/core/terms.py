"""What was agreed on for work that outlives its client: it is in the store, and so is its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MOST_ATTEMPTS = 3  # by default: what fails on three occasions is at fault itself
MOST_INTERRUPTIONS = 10  # by deaths of the daemon: a job that is in flight each time is no bystander


class Origin(StrEnum):
    """Which door a durable job came through."""

    JOB = "job"  # POST /v1/jobs, or any POST that preferred to be answered later
    BATCH = "batch"  # a line of an OpenAI batch
    MESSAGE_BATCH = "message_batch"  # a request of an Anthropic batch
    RESPONSE = "response"  # a response in the background


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """An answer is worth something only where it fits `schema`, a JSON Schema as JSON text.

    `retries`: how often it is asked again where it does not, from 0.
    """

    schema: str
    retries: int = 2


@dataclass(frozen=True, slots=True)
class Terms:
    """Of one durable job. `deadline_at`: not done by then (seconds since the epoch), it fails; None: it may wait.

    `max_attempts`: tries that failed for what a backend did, over all lives of the daemon. `batch` and `line` (from 1)
    place it in its batch, `custom_id` is what its client calls it there.
    """

    origin: Origin
    deadline_at: float | None = None
    max_attempts: int = MOST_ATTEMPTS
    batch: str = ""
    line: int = 0
    custom_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    check: OutputCheck | None = None


@dataclass(frozen=True, slots=True, order=True)
class Flow:
    """Waiting jobs that are alike: of one client, for one model as it was asked for, in one class of priority."""

    model: str
    priority: int
    client: str
