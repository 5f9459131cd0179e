"""A batch's way through its statuses, and what its lines came to."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core import batch
from supervisord.core.batch import Fate
from supervisord.core.errors import ConflictError, InvalidRequestError
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import ENDED_BATCH, BatchCounts, BatchRecord, BatchStatus

NEW = BatchRecord("batch_1", "openai", "/v1/embeddings", "me", 100.0, 200.0, BatchStatus.VALIDATING)


def in_status(status: BatchStatus) -> BatchRecord:
    return replace(NEW, status=status)


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86400), ("7d", 604800), ("90m", 5400), ("5s", 5), ("168h", 604800)]
)
def test_a_window_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert batch.window(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "0h", "8d", "169h", "1w", "-1h", "24h ", "1.5h", "99999999s", "٣h"])
def test_any_other_window_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        batch.window(text)
    assert refused.value.param == "completion_window"


def test_metadata_is_texts_within_bounds() -> None:
    assert batch.metadata(None) == {}
    assert batch.metadata({"a": "b"}) == {"a": "b"}
    most = {"k" * 60 + str(n): "v" * 512 for n in range(16)}
    assert batch.metadata(most) == most


@pytest.mark.parametrize(
    "value",
    [
        [],
        "text",
        {"a": 1},
        {"a": None},
        {"k" * 65: "v"},
        {"k": "v" * 513},
        {str(n): "" for n in range(17)},
    ],
)
def test_other_metadata_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        batch.metadata(value)
    assert refused.value.param == "metadata"


def test_each_status_is_entered_once_and_has_its_time() -> None:
    running = batch.moved(NEW, BatchStatus.IN_PROGRESS, 110.0)
    last = batch.concluded(batch.moved(running, BatchStatus.FINALIZING, 120.0), BatchCounts(succeeded=3), 121.0)

    assert last.status is BatchStatus.COMPLETED
    assert last.at == {
        BatchStatus.IN_PROGRESS: 110.0,
        BatchStatus.FINALIZING: 120.0,
        BatchStatus.COMPLETED: 121.0,
    }


@given(st.lists(st.sampled_from(BatchStatus), max_size=12))
def test_no_status_comes_twice_and_an_ended_batch_stays(steps: list[BatchStatus]) -> None:
    now, record, seen = 0.0, NEW, [NEW.status]
    for status in steps:
        now += 1.0
        try:
            moved = batch.moved(record, status, now)
        except ValueError:
            continue
        assert record.status not in ENDED_BATCH
        record = moved
        assert record.status not in seen
        seen.append(record.status)
        assert record.at[record.status] == now
    assert len(record.at) == len(seen) - 1


def test_lines_that_ran_out_of_time_make_the_batch_expired() -> None:
    finalizing = in_status(BatchStatus.FINALIZING)

    assert batch.concluded(finalizing, BatchCounts(succeeded=1, expired=1), 1.0).status is BatchStatus.EXPIRED
    assert batch.concluded(finalizing, BatchCounts(failed=2), 1.0).status is BatchStatus.COMPLETED


def test_a_cancelled_batch_ends_cancelled_whatever_its_lines_came_to() -> None:
    leaving = batch.cancelled(in_status(BatchStatus.IN_PROGRESS), 5.0)

    assert leaving.status is BatchStatus.CANCELLING
    assert batch.cancelled(leaving, 6.0) is leaving
    for counts in (BatchCounts(succeeded=9), BatchCounts(expired=1), BatchCounts(cancelled=3)):
        gone = batch.concluded(leaving, counts, 7.0)
        assert gone.status is BatchStatus.CANCELLED
        assert batch.cancelled(gone, 8.0) is gone
        assert gone.at == {BatchStatus.CANCELLING: 5.0, BatchStatus.CANCELLED: 7.0}


@pytest.mark.parametrize(
    "status", [BatchStatus.FINALIZING, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.FAILED]
)
def test_what_is_over_cannot_be_cancelled(status: BatchStatus) -> None:
    with pytest.raises(ConflictError, match=f"batch_1 is {status}"):
        batch.cancelled(in_status(status), 1.0)


@pytest.mark.parametrize(
    ("status", "reason", "http_status", "expected"),
    [
        (JobStatus.QUEUED, None, None, Fate.UNFINISHED),
        (JobStatus.RUNNING, None, None, Fate.UNFINISHED),
        (JobStatus.DONE, None, 200, Fate.SUCCEEDED),
        (JobStatus.DONE, None, None, Fate.SUCCEEDED),
        (JobStatus.DONE, None, 400, Fate.FAILED),
        (JobStatus.FAILED, FailureReason.BACKEND_DIED, None, Fate.FAILED),
        (JobStatus.FAILED, FailureReason.REQUEST_REJECTED, 400, Fate.FAILED),
        (JobStatus.FAILED, FailureReason.DEADLINE_EXCEEDED, None, Fate.EXPIRED),
        (JobStatus.CANCELLED, FailureReason.CANCELLED, None, Fate.CANCELLED),
        (JobStatus.ABANDONED, FailureReason.DAEMON_DIED, None, Fate.FAILED),
    ],
)
def test_fates(status: JobStatus, reason: FailureReason | None, http_status: int | None, expected: Fate) -> None:
    assert batch.fate(status.value, reason, http_status) is expected


def test_every_way_a_job_can_be_has_a_fate() -> None:
    for status, reason, code in product(JobStatus, (None, *FailureReason), (None, 200, 500)):
        unfinished = status in {JobStatus.QUEUED, JobStatus.RUNNING}
        assert (batch.fate(status.value, reason, code) is Fate.UNFINISHED) == unfinished
