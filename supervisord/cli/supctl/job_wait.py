"""Waiting for a job: over restarts of the daemon, as the job does."""

import time

from supervisord.cli.supctl.client import Answer, Control, segment
from supervisord.cli.supctl.failure import ExitStatus, Failure, NotRunning, TimedOut, Unavailable
from supervisord.cli.supctl.screen import note
from supervisord.cli.supctl.wire import Doc

ASK_S = 30.0  # of one long poll
PAUSE_S = 0.5
OVER = frozenset({"done", "failed", "cancelled", "abandoned"})


AWAY = (NotRunning, TimedOut, Unavailable)  # what whoever waits for hours waits out


def waiting_for(failure: Failure) -> str:
    """What is said of it, once."""
    return f"{failure} Asking again …" if isinstance(failure, Unavailable) else "the daemon went away, waiting for it …"


def until_over(control: Control, job: str, timeout: float | None) -> Answer:
    """The record of a job that has ended. Raises TimedOut after `timeout` seconds; None: however long it takes."""
    limit = float("inf") if timeout is None else time.monotonic() + timeout
    answer: Answer | None = None
    away = False
    while True:
        asked_at = time.monotonic()
        left = max(0.0, min(ASK_S, limit - asked_at))
        try:
            answer, away = control.get(f"/v1/jobs/{segment(job)}", {"wait": int(left)}, wait=left), False
        except AWAY as failure:
            if answer is None or asked_at >= limit:
                raise
            if not away:
                note(waiting_for(failure))
            away = True
        if answer.doc.text("status") in OVER:
            return answer
        if asked_at >= limit:
            raise TimedOut(f"job {answer.doc.text('id')} is {answer.doc.text('status')} still: it goes on without you")
        if time.monotonic() - asked_at < PAUSE_S:  # answered at once, as by a daemon that goes down
            time.sleep(min(PAUSE_S, max(0.0, limit - time.monotonic())))


def exit_status(doc: Doc) -> ExitStatus:
    """Of a command that waited for a job."""
    return ExitStatus.OK if doc.text("status") == "done" else ExitStatus.FAILED
