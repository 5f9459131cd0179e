"""Requests that outlive their connection: answered later, or once however often they are sent."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from supervisord.api.agreed import NOTHING, terms_of
from supervisord.api.door import HttpClient, Request, Response, Work
from supervisord.api.idempotency import HEADER, key_in
from supervisord.api.jobs import LONGEST_WAIT_S, JobsDoor
from supervisord.api.results import result_answer
from supervisord.core.errors import (
    DrainingError,
    InvalidRequestError,
    NotFoundError,
    StoreUnavailableError,
    TooManyConnectionsError,
)
from supervisord.core.job import TERMINAL, Submission
from supervisord.core.output_check import PARAM
from supervisord.core.request import Value
from supervisord.core.terms import Origin
from supervisord.engine.members import reader
from supervisord.engine.supervisor import Supervisor
from supervisord.engine.work.durable import Accepted
from supervisord.ports import StoredJob

ASYNC = "respond-async"
_checked = reader(PARAM)
_LOOK_EVERY_S = 60.0  # the wait of a client that has no limit of its own, in steps: each reads the job anew


class Later:
    """Makes durable jobs of ordinary requests that ask for it by a header."""

    def __init__(self, supervisor: Supervisor, jobs: JobsDoor) -> None:
        self._supervisor = supervisor
        self._jobs = jobs

    def work(self, request: Request, wanted: Submission, members: Mapping[str, Value]) -> Work | None:
        """How a request is answered that prefers to be answered later, or carries a key; None for all others.

        Raises InvalidRequestError.
        """
        if "prefer" in request.headers or HEADER in request.headers:  # mostly there is neither
            preferences, key = _preferences(request.headers.get("prefer", "")), key_in(request.headers)
            if ASYNC in preferences or key:
                return self._kept(request, wanted, preferences, key)
        if members.get(PARAM):
            raise InvalidRequestError(
                "An answer that is passed on at once is not checked. Have it kept: with `Prefer: respond-async`, with "
                "an Idempotency-Key, or as a job (POST /v1/jobs).",
                param=PARAM,
            )
        return None

    def _kept(self, request: Request, wanted: Submission, preferences: Mapping[str, str], key: str) -> Work:
        if wanted.stream:
            header = "Idempotency-Key" if key else f"Prefer: {ASYNC}"
            raise InvalidRequestError(
                f'{header} is for answers that are kept: leave "stream" out. A response in the background can be '
                "streamed, and picked up again: POST /v1/responses with background and stream.",
                param="stream",
            )
        if ASYNC in preferences:
            return partial(self._answer_later, request, wanted, key, _seconds(preferences.get("wait", "")))
        return partial(self._answer_once, request, wanted, key)

    async def _answer_later(
        self, request: Request, wanted: Submission, key: str, seconds: float, client: HttpClient
    ) -> Response:
        """202, or within `seconds` the answer itself (RFC 7240, 4.3)."""
        del client
        accepted = await self._accept(wanted, key)
        if seconds:
            stored = await self._waited_for(accepted, seconds)
            if stored is not None and stored.status in TERMINAL:
                return result_answer(stored, request)
        answer = await self._jobs.accepted(accepted)
        return replace(answer, headers=(*answer.headers, ("preference-applied", ASYNC)))

    async def _waited_for(self, accepted: Accepted, seconds: float) -> StoredJob | None:
        """The job after the wait; None: it cannot be looked at, which is no reason to have it sent once more."""
        with suppress(StoreUnavailableError, TooManyConnectionsError):
            return await self._supervisor.durable.wait(accepted.job_id, seconds)
        return None

    async def _answer_once(self, request: Request, wanted: Submission, key: str, client: HttpClient) -> Response:
        """The answer of the one job that was made for this key. It runs on when its client leaves."""
        del client
        job_id = (await self._accept(wanted, key)).job_id
        while True:
            stored = await self._supervisor.durable.wait(job_id, _LOOK_EVERY_S)
            if stored is None:
                raise NotFoundError(f'There is no job "{job_id}" any more: it was deleted.', param="Idempotency-Key")
            if stored.status in TERMINAL:
                return result_answer(stored, request)
            if self._supervisor.draining:  # nothing is waited for any more
                raise DrainingError(
                    f"The daemon is going down. Job {job_id} goes on when it is up again: send this request once more, "
                    "with the same Idempotency-Key.",
                    retry_after_s=5,
                )

    async def _accept(self, wanted: Submission, key: str) -> Accepted:
        check = _checked(wanted.body).get(PARAM, NOTHING)
        terms = await terms_of(self._supervisor, Origin.JOB, wanted, check=check)
        return await self._supervisor.durable.accept(wanted, terms, key=key)


def _preferences(header: str) -> Mapping[str, str]:
    """Of a Prefer header (RFC 7240): names in small letters, with their values."""
    told: dict[str, str] = {}
    for preference in header.split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        told.setdefault(name.strip().lower(), value.strip().strip('"'))
    return told


def _seconds(text: str) -> float:
    """A wish: one that makes no sense is as good as none."""
    return min(float(text), LONGEST_WAIT_S) if text.isdecimal() and text.isascii() else 0.0
