"""submit, job, batch, queue, export, backup and vacuum, against a daemon that gives canned answers."""

import contextlib
import csv
import io
import json
import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from supervisord.cli.supctl.export_rows import FIELDS
from supervisord.cli.supctl.failure import Failure
from supervisord.cli.supctl.figures import size
from supervisord.cli.supctl.new_file import new_file
from supervisord.cli.supctl.progress import Rate, bar, told
from supervisord.cli.supctl.screen import columns
from supervisord.cli.supctl.wire import Doc
from supervisord.cli.supctl.wire_work import Batch
from tests.cli.supctl import documents
from tests.cli.supctl.peer import daemon

BODY = {"model": "m", "messages": []}
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": BODY}


def counted(**counts):
    ended = sum(counts.get(name, 0) for name in ("succeeded", "failed", "cancelled", "expired"))
    return {"waiting": 0, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0, "expired": 0, **counts,
            "ended": ended}  # fmt: skip


BATCH = {
    "id": "batch_1", "door": "openai", "endpoint": "/v1/chat/completions", "client": "night", "status": "in_progress",
    "created_at": 1795282279.0, "expires_at": 1795368679.0, "at": {"in_progress": 1795282280.0},
    "input_file": "file-1", "output_file": None, "error_file": None, "metadata": {"run": "7"}, "total": 2000,
    "counts": counted(waiting=1580, running=8, succeeded=409, failed=3), "errors": [],
}  # fmt: skip
COMPLETED = {**BATCH, "status": "completed", "total": 2, "counts": counted(succeeded=2)}
PARTLY = {**COMPLETED, "counts": counted(succeeded=1, failed=1)}
REFUSED = {
    **BATCH, "status": "failed", "total": 0, "counts": counted(),
    "errors": [{"code": "invalid", "line": n, "message": f"no \x1b[31mmodel {n}", "param": None} for n in range(1, 26)],
}  # fmt: skip
QUEUE = {
    "paused": None, "in_flight": 2, "waiting": 1593, "lines_total": 3,
    "lines": [
        {"model": "extract-8b", "priority": "batch", "client": "night", "durable": True, "waiting": 1580,
         "in_memory": 16, "waits_for": "its turn", "oldest_s": 7210.0, "per_s": 3.21, "left_s": 492.2},
        {"model": "llama3-70b", "priority": "normal", "client": "editor", "durable": False, "waiting": 12,
         "in_memory": 12, "waits_for": "llama3-70b to load", "oldest_s": 41.0, "per_s": 0.025, "left_s": 480.0},
        {"model": "gone", "priority": "high", "client": "", "durable": True, "waiting": 1, "in_memory": 0,
         "waits_for": 'No backend serves the model "gone".', "oldest_s": None, "per_s": None, "left_s": None},
    ],
}  # fmt: skip
DONE = {**documents.JOB, "id": "j1", "status": "done", "reason": None, "detail": "", "submitted_at": 10.0,
        "finished_at": 13.2}  # fmt: skip
QUEUED = {**DONE, "status": "queued", "finished_at": None}
BROKEN = {**DONE, "status": "failed", "reason": "invalid_output", "detail": "$.n: 'x' is no integer"}


@pytest.fixture
def body(tmp_path) -> Path:
    path = tmp_path / "body.json"
    path.write_text(json.dumps(BODY))
    return path


@pytest.fixture
def lines(tmp_path) -> Path:
    path = tmp_path / "night.jsonl"
    path.write_text("".join(json.dumps({**LINE, "custom_id": str(n)}) + "\n" for n in range(2)))
    return path


class TestSubmit:
    def test_the_id_is_printed(self, supctl, peer, body):
        peer.answers["/v1/jobs"] = (202, {"id": "j1", "known": False})
        ended = supctl(
            "submit", str(body), "--priority", "batch", "--deadline", "60", "--meta", "a=b=c", "--key", "k 1"
        )
        assert (ended.status, ended.out, ended.err) == (0, "j1\n", "")
        [seen] = peer.seen
        assert seen.body == {
            "endpoint": "/v1/chat/completions", "body": BODY, "priority": "batch", "deadline": 60.0,
            "metadata": {"a": "b=c"}, "validate_output": None,
        }  # fmt: skip
        assert seen.headers["idempotency-key"] == "k 1"

    @pytest.mark.parametrize(("options", "sent"), [((), True), (("--retries", "0"), {"retries": 0})])
    def test_the_answer_can_be_checked(self, supctl, peer, body, options, sent):
        peer.answers["/v1/jobs"] = (202, {"id": "j1"})
        assert supctl("submit", str(body), "--validate", "--json", *options).out == '{"id": "j1"}\n'
        assert peer.seen[0].body["validate_output"] == sent

    def test_the_answer_is_waited_for_and_printed(self, supctl, peer, body):
        peer.answers |= {
            "/v1/jobs": (202, {"id": "j1"}),
            "/v1/jobs/j1": [QUEUED, QUEUED, DONE],
            "/v1/jobs/j1/answer": b'{"object":"x"}',
        }
        ended = supctl("submit", str(body), "--wait")
        assert (ended.status, ended.out, ended.err) == (0, '{"object":"x"}\n', "")
        assert [seen.query for seen in peer.seen[1:4]] == [{"wait": "30"}] * 3
        assert json.loads(supctl("submit", str(body), "--wait", "--json").out)["status"] == "done"

    def test_a_failure_is_told_beside_the_answer_that_is_kept(self, supctl, peer, body):
        peer.answers |= {
            "/v1/jobs": (202, {"id": "j1"}),
            "/v1/jobs/j1": BROKEN,
            "/v1/jobs/j1/answer": b'{"n":"x"}\n',
        }
        ended = supctl("submit", str(body), "--wait")
        assert (ended.status, ended.out) == (1, '{"n":"x"}\n')
        assert ended.err == "supctl: job j1 failed in 3.20 s: invalid_output: $.n: 'x' is no integer\n"

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("{", "is not JSON"),
            ('{"a":NaN}', "NaN is no JSON number"),
            ("[]", "is not a JSON object"),
            ("[" * 100_000, "is not JSON"),
        ],
    )
    def test_what_is_no_body_is_not_sent(self, supctl, peer, body, text, why):
        body.write_text(text)
        ended = supctl("submit", str(body))
        assert (ended.status, why in ended.err, peer.seen) == (1, True, [])

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_the_body_goes_as_it_was_written(self, supctl, peer, body, encoding):
        """Read and written again, a figure becomes another, and of two members of a name one is lost."""
        peer.answers["/v1/jobs"] = (202, {"id": "j1"})
        text = '{"model":  "m", "seed": 12345678901234567890.10, "top_p": 1.0, "n":1e400, "n": 2, "user": "é"}'
        body.write_bytes(text.encode(encoding))
        assert supctl("submit", str(body)).out == "j1\n"
        sent = peer.seen[0].raw
        assert text.encode() in sent
        assert json.loads(sent)["endpoint"] == "/v1/chat/completions"

    @pytest.mark.parametrize(
        "options",
        [("--key", "a\nb"), ("--meta", "a"), ("--meta", "=b"), ("--meta", "a=1", "--meta", "a=2"), ("--retries", "11")],
    )
    def test_wrong_options_are_wrong_usage(self, supctl, peer, body, options):
        assert supctl("submit", str(body), *options).status == 2
        assert peer.seen == []


class TestJob:
    @pytest.mark.parametrize(("document", "status"), [(DONE, 0), (BROKEN, 1)])
    def test_wait_ends_as_the_job_does(self, supctl, peer, document, status):
        peer.answers["/v1/jobs/j1"] = [QUEUED, document]
        ended = supctl("job", "wait", "j1")
        assert ended.status == status
        assert ended.out.startswith(f"job j1 {document['status']} in 3.20 s")
        assert json.loads(supctl("job", "wait", "j1", "--json").out) == document

    def test_wait_is_given_up_in_time(self, supctl, peer):
        peer.answers["/v1/jobs/j1"] = QUEUED
        ended = supctl("job", "wait", "j1", "--timeout", "0")
        assert (ended.status, ended.err) == (5, "supctl: job j1 is queued still: it goes on without you\n")

    def test_wait_outlasts_the_daemon(self, supctl, socket_path):
        with contextlib.ExitStack() as first:
            peer = first.enter_context(daemon(socket_path))
            peer.answers["/v1/jobs/j1"] = QUEUED
            with supctl.running("job", "wait", "j1") as running:
                assert peer.asked.wait(10.0)
                first.close()
                running.wait_for_error("the daemon went away, waiting for it …")
                with daemon(socket_path) as again:
                    again.answers["/v1/jobs/j1"] = DONE
                    assert running.stop().status == 0

    def test_wait_outlasts_a_store_that_is_busy(self, supctl, peer):
        busy = (503, {"error": {"code": "store_unavailable", "message": "The store is busy."}})
        peer.answers["/v1/jobs/j1"] = [QUEUED, busy, busy, DONE]
        ended = supctl("job", "wait", "j1")
        assert (ended.status, ended.err) == (0, "supctl: The store is busy. Asking again …\n")
        peer.answers["/v1/jobs/j1"] = busy
        assert supctl("job", "wait", "j1").status == 1

    def test_a_daemon_that_never_was_there_is_not_waited_for(self, supctl):
        assert supctl("job", "wait", "j1").status == 3

    def test_result(self, supctl, peer):
        peer.answers |= {"/v1/jobs/j1": DONE, "/v1/jobs/j1/answer": b"{}"}
        assert (supctl("job", "result", "j1").out) == "{}\n"
        peer.answers["/v1/jobs/j1"] = BROKEN
        ended = supctl("job", "result", "j1")
        assert (ended.status, ended.out, "invalid_output" in ended.err) == (1, "{}\n", True)
        peer.answers["/v1/jobs/j1/answer"] = (404, {"error": {"code": "not_found", "message": "no answer"}})
        assert "There is no answer of it" in supctl("job", "result", "j1").err
        peer.answers["/v1/jobs/j1"] = QUEUED
        assert supctl("job", "result", "j1").err == "supctl: job j1 is queued: supctl job wait j1\n"

    def test_a_sound_goes_byte_by_byte_and_long_answers_whole(self, supctl, peer, tmp_path):
        sound = bytes(range(256)) * 80_000  # 20 MB, more than a document of the daemon's may be
        peer.answers |= {"/v1/jobs/j1": DONE, "/v1/jobs/j1/answer": sound}
        written = tmp_path / "sound"
        with written.open("wb") as file:
            assert supctl.to(file, "job", "result", "j1") == 0
        assert written.read_bytes() == sound

    def test_a_terminal_gets_no_control_characters(self, supctl, peer):
        peer.answers |= {"/v1/jobs/j1": DONE, "/v1/jobs/j1/answer": "a\x1b[31mb\x9bc é\nd".encode()}
        with supctl.running("job", "result", "j1", terminal=(80, 24)) as running:
            assert running.process.wait(20) == 0
            assert running.rest().replace("\r\n", "\n") == "a [31mb c é\nd"

    def test_show_is_that_of_jobs(self, supctl, peer):
        peer.answers["/v1/jobs/j1"] = documents.JOB
        assert supctl("job", "show", "j1").out == supctl("jobs", "show", "j1").out

    def test_every_one_has_its_turn(self, supctl, peer):
        peer.answers |= {"/v1/jobs/j2/cancel": {"id": "j2", "message": "cancelled"}}
        ended = supctl("job", "cancel", "nosuch", "j2")
        assert (ended.status, ended.out) == (6, "j2 cancelled\n")


class TestBatch:
    @pytest.fixture(autouse=True)
    def uploads(self, peer):
        peer.answers |= {"/v1/files": {"id": "file-1"}, "/v1/batches": BATCH}

    def test_the_file_goes_as_it_is(self, supctl, peer, lines):
        lines.write_bytes(lines.read_bytes() * 5000)  # some parts of it
        ended = supctl("batch", "submit", str(lines), "--meta", "run=7")
        assert (ended.status, ended.out) == (0, "batch_1\n")
        upload, made = peer.seen
        assert upload.body == lines.read_bytes()
        assert upload.query == {"filename": "night.jsonl"}
        assert made.body == {
            "endpoint": "/v1/embeddings", "completion_window": "24h", "metadata": {"run": "7"},
            "input_file_id": "file-1",
        }  # fmt: skip

    @pytest.mark.parametrize("text", ["", "no json\n", "{}\n", '{"url": 3}\n', "[]\n", "[" * 100_000])
    def test_what_is_no_batch_file_is_not_sent(self, supctl, peer, lines, text):
        lines.write_text(text)
        ended = supctl("batch", "submit", str(lines))
        assert (ended.status, "Name the endpoint with --endpoint" in ended.err) == (1, True)
        assert peer.seen == []

    @pytest.mark.parametrize("head", [b"\n", b"\xef\xbb\xbf", b" \r\n\n\t\n"])
    def test_blank_lines_before_the_first(self, supctl, peer, lines, head):
        lines.write_bytes(head + lines.read_bytes())
        assert supctl("batch", "submit", str(lines)).status == 0
        upload, made = peer.seen
        assert (upload.body, made.body["endpoint"]) == (lines.read_bytes(), "/v1/embeddings")

    @pytest.mark.parametrize("option", ["--output", "--errors"])
    def test_a_file_that_is_there_is_told_before_anything_is_sent(self, supctl, peer, lines, tmp_path, option):
        """And not after a night of work."""
        there = tmp_path / "there"
        there.write_text("mine")
        ended = supctl("batch", "submit", str(lines), "--wait", option, str(there))
        assert (ended.status, there.read_text(), peer.seen) == (1, "mine", [])
        assert "is there already" in ended.err

    def test_a_named_endpoint_and_json(self, supctl, peer, lines):
        lines.write_text("")
        ended = supctl("batch", "submit", str(lines), "--endpoint", "/v1/responses", "--window", "2h", "--json")
        assert json.loads(ended.out) == BATCH
        assert (peer.seen[1].body["endpoint"], peer.seen[1].body["completion_window"]) == ("/v1/responses", "2h")

    def test_its_refusal_is_told(self, supctl, peer, lines):
        peer.answers["/v1/files"] = (413, {"error": {"message": "This takes at most 3 bytes.", "code": "x"}})
        ended = supctl("batch", "submit", str(lines))
        assert (ended.status, ended.err) == (1, "supctl: This takes at most 3 bytes.\n")

    def test_waiting_ends_with_both_files(self, supctl, peer, lines, tmp_path):
        peer.answers |= {
            "/v1/batches/batch_1": [BATCH, PARTLY],
            "/v1/batches/batch_1/output": b'{"custom_id":"0"}\n',
            "/v1/batches/batch_1/errors": b'{"custom_id":"1"}\n',
        }
        good, bad = tmp_path / "good", tmp_path / "bad"
        ended = supctl("batch", "submit", str(lines), "--wait", "-o", str(good), "--errors", str(bad))
        assert ended.status == 1, "a line has failed"
        assert "2: 1 done, 1 failed" in ended.out
        assert ended.err.splitlines() == [
            "batch_1  412/2\N{NO-BREAK SPACE}000  20 %  3 failed",
            "batch_1  2/2  100 %  1 failed  completed",
        ]
        assert (good.read_bytes(), bad.read_bytes()) == (b'{"custom_id":"0"}\n', b'{"custom_id":"1"}\n')
        assert (good.stat().st_mode & 0o777) == 0o600

    def test_answers_that_cannot_be_had_at_the_end_are_not_lost(self, supctl, peer, lines, tmp_path):
        peer.answers |= {"/v1/batches/batch_1": COMPLETED, "/v1/batches/batch_1/output": (503, {})}
        ended = supctl("batch", "submit", str(lines), "--wait", "-o", str(tmp_path / "out"))
        assert ended.status == 1
        assert "its answers are kept: supctl batch fetch batch_1\n" in ended.err
        assert list(tmp_path.glob("out*")) == []

    def test_files_are_for_those_who_wait(self, supctl, peer, lines):
        assert supctl("batch", "submit", str(lines), "-o", "x").status == 2
        assert peer.seen == []

    def test_a_bar_on_a_terminal(self, supctl, peer, lines):
        peer.answers["/v1/batches/batch_1"] = [BATCH, COMPLETED]
        with supctl.running("batch", "submit", str(lines), "--wait", terminal=(80, 24), errors_too=True) as running:
            assert running.process.wait(20) == 0
            shown = running.rest()
        assert "\r[####--------------------]  412/2\N{NO-BREAK SPACE}000  20 %  3 failed" in shown
        assert "\r[########################]  2/2  100 %  completed" in shown

    def test_leaving_leaves_the_batch(self, supctl, peer, lines):
        peer.answers["/v1/batches/batch_1"] = BATCH
        with supctl.running("batch", "submit", str(lines), "--wait") as running:
            running.wait_for_error("412/2")
            assert running.interrupt() == 130
            assert "the batch goes on without you: supctl batch status batch_1" in running._stderr()

    @pytest.mark.parametrize("name", ["BATCH", "REFUSED", "PARTLY"])
    def test_status(self, supctl, peer, golden, name):
        peer.answers["/v1/batches/batch_1"] = globals()[name]
        golden(f"batch-{name.lower()}", supctl("batch", "status", "batch_1").out)
        assert json.loads(supctl("batch", "status", "batch_1", "--json").out) == globals()[name]

    def test_status_waits(self, supctl, peer):
        busy = (503, {"error": {"code": "store_unavailable", "message": "The store is busy."}})
        peer.answers["/v1/batches/batch_1"] = [BATCH, busy, COMPLETED]
        ended = supctl("batch", "status", "batch_1", "--wait", "--json")
        assert (ended.status, json.loads(ended.out)["status"]) == (0, "completed")

    @pytest.mark.parametrize("width", [60, 120])
    def test_list(self, supctl, peer, golden, width):
        peer.answers["/v1/batches"] = {"batches": [BATCH, PARTLY, REFUSED], "more": True}
        ended = supctl("batch", "list", COLUMNS=str(width))
        golden(f"batches-{width}", ended.out)
        assert "these are the newest 20" in ended.err
        peer.answers["/v1/batches"] = {"batches": []}
        assert supctl("batch", "list").out == "no batches\n"

    def test_cancel_and_delete(self, supctl, peer):
        cancelled = {**BATCH, "status": "cancelling"}
        peer.answers |= {
            "/v1/batches/batch_1/cancel": cancelled,
            "/v1/batches/batch_1/delete": {"id": "batch_1", "message": "deleted"},
        }
        assert supctl("batch", "cancel", "batch_1").out.startswith("batch batch_1  cancelling\n")
        assert json.loads(supctl("batch", "cancel", "batch_1", "--json").out) == cancelled
        assert supctl("batch", "delete", "batch_1").out == "batch_1 deleted\n"

    def test_fetch(self, supctl, peer, tmp_path):
        peer.answers |= {"/v1/batches/batch_1": BATCH, "/v1/batches/batch_1/output": b"{}\n" * 400_000}
        ended = supctl("batch", "fetch", "batch_1")
        assert ended.out == "{}\n" * 400_000
        assert "1\N{NO-BREAK SPACE}588 lines still to come" in ended.err
        assert "3 failed: see --errors FILE" in ended.err
        there = tmp_path / "there"
        there.write_text("mine")
        ended = supctl("batch", "fetch", "batch_1", "-o", str(there))
        assert (ended.status, there.read_text()) == (1, "mine")
        assert "is there already" in ended.err

    def test_what_breaks_off_leaves_no_file(self, supctl, peer, tmp_path):
        peer.answers |= {"/v1/batches/batch_1": COMPLETED, "/v1/batches/batch_1/output": (503, {})}
        assert supctl("batch", "fetch", "batch_1", "-o", str(tmp_path / "new")).status == 1
        assert list(tmp_path.glob("new*")) == []


class TestQueue:
    @pytest.mark.parametrize("width", [80, 120])
    def test_what_waits(self, supctl, peer, golden, width):
        peer.answers["/v1/queue"] = QUEUE
        golden(f"queue-{width}", supctl("queue", COLUMNS=str(width)).out)
        assert json.loads(supctl("queue", "--json").out) == QUEUE

    def test_nothing_waits_and_more_than_fits(self, supctl, peer):
        peer.answers["/v1/queue"] = {"waiting": 0, "in_flight": 1, "lines": [], "paused": "new disk"}
        assert supctl("queue").out == "paused: new disk\n0 jobs waiting, 1 running\n"
        peer.answers["/v1/queue"] = {**QUEUE, "lines_total": 140}
        assert supctl("queue").out.endswith("and 137 lines more, each shorter than these\n")

    def test_pause_and_resume(self, supctl, peer):
        peer.answers |= {"/v1/queue/pause": {"message": "paused"}, "/v1/queue/resume": {"message": "resumed"}}
        assert supctl("queue", "pause", "--why", "new disk").out == "paused\n"
        assert supctl("queue", "resume").out == "resumed\n"
        assert [(seen.path, seen.body) for seen in peer.seen] == [
            ("/v1/queue/pause", {"why": "new disk"}), ("/v1/queue/resume", {}),
        ]  # fmt: skip


class TestExport:
    @pytest.fixture(autouse=True)
    def jobs(self, peer):
        first = {"jobs": [documents.JOB, documents.FAILED], "more": True}
        peer.answers["/v1/jobs"] = [first, {"jobs": [documents.WAITING], "more": True}, {"jobs": [], "more": False}]

    def test_every_page_once(self, supctl, peer):
        ended = supctl("export", "-", "--format", "jsonl", "--status", "done", "--batch", "b", "--model", "m")
        assert [json.loads(line) for line in ended.out.splitlines()] == [
            documents.JOB, documents.FAILED, documents.WAITING,
        ]  # fmt: skip
        common = {"status": "done", "batch": "b", "model": "m", "limit": "1000"}
        assert [seen.query for seen in peer.seen] == [
            common, {**common, "after": documents.FAILED["id"]}, {**common, "after": documents.WAITING["id"]},
        ]  # fmt: skip

    def test_csv_has_a_row_for_each_job_with_its_last_attempt(self, supctl, peer, tmp_path):
        ended = supctl("export", str(tmp_path / "x.csv"))
        assert ended.out == f"{tmp_path / 'x.csv'} written: 3 jobs\n"
        rows = list(csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text())))
        assert list(rows[0]) == [field.name for field in FIELDS]
        last = documents.JOB["attempts"][-1]
        assert rows[0]["served_model"] == last["model"]
        assert rows[0]["tokens_out"] == str(last["tokens_out"])
        assert rows[0]["submitted_at"].endswith("Z")
        assert rows[0]["stream"] in {"true", "false"}
        assert rows[2]["backend"] == "", "it has not run yet"

    def test_parquet_has_the_same_with_types(self, supctl, peer, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra: pip install -e '.[parquet]'")
        assert supctl("export", str(tmp_path / "x.parquet")).status == 0
        table = parquet.read_table(tmp_path / "x.parquet")
        assert table.column_names == [field.name for field in FIELDS]
        rows = table.to_pylist()
        assert [row["id"] for row in rows] == [
            job["id"] for job in (documents.JOB, documents.FAILED, documents.WAITING)
        ]
        assert rows[0]["submitted_at"].timestamp() == pytest.approx(documents.JOB["submitted_at"], abs=0.002)
        assert str(table.schema.field("tokens_out").type) == "int64"

    def test_without_its_library_parquet_says_what_to_install(self, supctl, tmp_path):
        (tmp_path / "pyarrow.py").write_text("raise ImportError")
        ended = supctl("export", str(tmp_path / "x.parquet"), PYTHONPATH=str(tmp_path))
        assert (ended.status, "pip install 'llm-supervisord[parquet]'" in ended.err) == (1, True)
        assert list(tmp_path.glob("x.parquet*")) == []

    def test_csv_has_no_formulas(self, supctl, peer):
        """A client calls itself what it likes, and a spreadsheet would do what that says."""
        names = ["=HYPERLINK(1)", "+1", "-1", "@x", "a=b", "\t=1"]
        peer.answers["/v1/jobs"] = {"jobs": [{**documents.JOB, "client": name} for name in names], "more": False}
        rows = csv.DictReader(io.StringIO(supctl("export", "-", "--format", "csv").out))
        assert [row["client"] for row in rows] == ["'=HYPERLINK(1)", "'+1", "'-1", "'@x", "a=b", "'\t=1"]

    @pytest.mark.parametrize("arguments", [("x",), ("-",), ("x.xls",), ("x.csv", "--format", "xls")])
    def test_a_form_that_nobody_knows_is_wrong_usage(self, supctl, peer, arguments):
        assert supctl("export", *arguments).status == 2
        assert peer.seen == []


class TestStore:
    @pytest.fixture
    def store(self, tmp_path) -> Path:
        path = tmp_path / "original"
        with closing(sqlite3.connect(path)) as made, made:
            made.execute("CREATE TABLE jobs (id TEXT PRIMARY KEY)")
            made.execute("CREATE TABLE bodies (id TEXT, body BLOB)")
            made.executemany("INSERT INTO jobs VALUES (?)", [(str(n),) for n in range(50)])
            made.executemany("INSERT INTO bodies VALUES (?, zeroblob(4000))", [(str(n),) for n in range(50)])
        return path

    def test_a_backup_is_looked_over(self, supctl, peer, tmp_path, store):
        peer.answers["/v1/store/backup"] = store.read_bytes()
        ended = supctl("backup", str(tmp_path / "copy"))
        assert ended.out == f"{tmp_path / 'copy'} written: 50 jobs, {size(store.stat().st_size)}, found whole\n"
        assert (tmp_path / "copy").read_bytes() == store.read_bytes()

    @pytest.mark.parametrize("keep", [0, 100, 20_000])
    def test_one_that_was_cut_off_is_thrown_away(self, supctl, peer, tmp_path, store, keep):
        peer.answers["/v1/store/backup"] = store.read_bytes()[:keep]
        ended = supctl("backup", str(tmp_path / "copy"))
        assert (ended.status, "was thrown away" in ended.err) == (1, True)
        assert list(tmp_path.glob("copy*")) == []

    def test_one_with_a_damaged_page_is_thrown_away(self, supctl, peer, tmp_path, store):
        whole = bytearray(store.read_bytes())
        at = whole.rindex(b"\0" * 3000)  # within the body of a job: nobody would notice who only counts them
        whole[at - at % 4096 : at - at % 4096 + 8] = b"\xff" * 8
        peer.answers["/v1/store/backup"] = bytes(whole)
        ended = supctl("backup", str(tmp_path / "copy"))
        assert (ended.status, "was thrown away" in ended.err) == (1, True)
        assert list(tmp_path.glob("copy*")) == []

    def test_vacuum(self, supctl, peer):
        told = {"freed_bytes": 3 * 2**20, "size_bytes": 40 * 2**10}
        peer.answers["/v1/store/vacuum"] = told
        assert supctl("vacuum").out == "3 MiB given back; the store has 40 KiB now\n"
        assert json.loads(supctl("vacuum", "--json").out) == told


# --- parts of it -----------------------------------------------------------------------------------------------------


def test_the_rate_is_that_of_the_last_minute():
    rate = Rate()
    rate.note(0.0, 0)
    assert rate.per_second is None
    rate.note(1.0, 5)
    assert rate.per_second is None, "too early to say"
    rate.note(10.0, 50)
    assert rate.per_second == 5.0
    rate.note(100.0, 50)
    assert rate.per_second is None, "nothing moved within the minute"
    rate.note(110.0, 60)
    assert rate.per_second == 1.0


def test_progress_in_words():
    batch = Batch.read(Doc(BATCH))
    assert told(batch, 3.176).replace("\N{NO-BREAK SPACE}", " ") == "412/2 000  20 %  3.2/s  8m left  3 failed"
    assert "one in 20.0 s" in told(batch, 0.05)
    assert told(Batch.read(Doc({**BATCH, "total": 0, "status": "validating"})), None) == "validating"
    assert bar(Batch.read(Doc({**BATCH, "total": 0})), None, 80).startswith("[" + "-" * 24 + "]")
    for width in (20, 40, 60, 80):
        assert columns(bar(batch, 3.0, width)) < width, "a full line would wrap"
    assert told(batch, 3.0) in bar(batch, 3.0, 50), "the words matter more than the bar"
    assert bar(batch, 3.0, 80).startswith("[####--------------------]  412/")
    assert told(Batch.read(Doc(COMPLETED)), 3.0) == "2/2  100 %  completed"


def test_a_new_file_is_whole_or_not_there(tmp_path):
    with new_file(tmp_path / "x") as file:
        file.write(b"all")
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "x").read_bytes() == b"all"
    with pytest.raises(Failure, match="is there already"), new_file(tmp_path / "x"):
        pass
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "y"):
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


def test_a_file_that_came_meanwhile_stays(tmp_path):
    def write():
        with new_file(tmp_path / "x") as file:
            file.write(b"ours")
            (tmp_path / "x").write_text("theirs")

    with pytest.raises(Failure, match="is there already"):
        write()
    assert (tmp_path / "x").read_text() == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


def test_what_another_is_writing_is_left_alone(tmp_path):
    (tmp_path / "x.part").write_text("theirs")
    with pytest.raises(Failure, match=r"x\.part is there already"), new_file(tmp_path / "x"):
        pass
    assert (tmp_path / "x.part").read_text() == "theirs"


@pytest.mark.parametrize("size", [100, 10_000_000])
def test_half_a_file_is_not_left(tmp_path, size):
    """The disk is full, or the user's quota: here a limit on the size of files. What is short fails at the end only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(Failure, match="x cannot be written: File too large"), new_file(tmp_path / "x") as file:
            file.write(b"x" * size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(Failure, match="cannot be written: No such file or directory"), new_file(tmp_path / "no" / "x"):
        pass


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with new_file(tmp_path / "x") as file:
        file.write(b"all")
    assert (tmp_path / "x").read_bytes() == b"all"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]
