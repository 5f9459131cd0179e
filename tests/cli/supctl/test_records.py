"""jobs and events."""

import contextlib
import json
import re
from datetime import UTC, datetime

import pytest

from supervisord.cli.supctl.commands.jobs import STATUSES, since
from supervisord.cli.supctl.figures import ABSENT
from supervisord.core.job import JobStatus
from tests.cli.supctl import documents
from tests.cli.supctl.peer import daemon

JOBS = {"jobs": [documents.WAITING, documents.JOB, documents.FAILED], "more": False}


class TestJobs:
    @pytest.mark.parametrize("width", [80, 120, 200])
    def test_list(self, supctl, peer, golden, width):
        peer.answers["/v1/jobs"] = JOBS
        ended = supctl("jobs", COLUMNS=str(width))
        assert (ended.status, ended.err) == (0, "")
        assert max(map(len, ended.out.splitlines())) <= width
        golden(f"jobs-{width}", ended.out)
        assert peer.seen[0].query == {"limit": "50"}

    def test_filters(self, supctl, peer):
        peer.answers["/v1/jobs"] = JOBS
        supctl(
            "jobs",
            "--status",
            "failed",
            "--model",
            "a b",
            "--backend",
            "x",
            "--since",
            "2026-11-20T14:00",
            "--limit",
            "7",
        )
        assert peer.seen[0].query == {
            "status": "failed", "model": "a b", "backend": "x", "since": "1795183200.0", "limit": "7",
        }  # fmt: skip

    def test_none(self, supctl, peer):
        peer.answers["/v1/jobs"] = {"jobs": []}
        assert supctl("jobs").out == "no jobs\n"

    def test_more_is_said_beside_the_output(self, supctl, peer):
        peer.answers["/v1/jobs"] = {**JOBS, "more": True}
        assert "these are the newest 50" in supctl("jobs").err

    def test_json(self, supctl, peer):
        peer.answers["/v1/jobs"] = JOBS
        assert supctl("jobs", "--json").out == json.dumps(JOBS) + "\n"

    @pytest.mark.parametrize("job", ["JOB", "WAITING", "FAILED"])
    def test_record(self, supctl, peer, golden, job):
        document = getattr(documents, job)
        peer.answers[f"/v1/jobs/{document['id']}"] = document
        golden(f"job-{job.lower()}", supctl("jobs", "show", document["id"]).out)

    def test_record_of_a_line_of_a_batch_that_waits(self, supctl, peer):
        peer.answers["/v1/jobs/x"] = {
            **documents.WAITING, "waits_for": "its turn", "position": 7, "batch": "batch_1", "line": 12,
            "custom_id": "invoice-12", "deadline_at": documents.AT + 3600, "metadata": {"run": "a\x1b[31m"},
        }  # fmt: skip
        shown = supctl("job", "show", "x").out.splitlines()
        assert "  waits for       its turn, position 7" in shown
        assert "  batch           batch_1, line 12: invoice-12" in shown
        assert any(line.startswith("  deadline        2026-") for line in shown)
        assert shown[-1] == "  run             a [31m"

    def test_record_of_nothing(self, supctl, peer):
        ended = supctl("job", "show", "")
        assert (ended.status, ended.err, peer.seen) == (6, "supctl: an empty name is nobody's\n", [])

    def test_record_tells_every_field(self, supctl, peer):
        """Each field of the document changes what is printed."""
        peer.answers["/v1/jobs/x"] = documents.JOB
        whole = supctl("jobs", "show", "x").out
        for key in set(documents.JOB) - {"detail", "reason", "attempts", "attempts_count"}:
            peer.answers["/v1/jobs/x"] = {**documents.JOB, key: None}
            assert supctl("jobs", "show", "x").out != whole, key

    def test_attempt_tells_every_field(self, supctl, peer):
        attempt = {
            **documents.DIED,
            "rung_why": "memory was short",
            "ttft_s": 1.0,
            "tokens_out": 5,
            "tokens_per_second": 2.0,
            "http_status": 500,
        }
        peer.answers["/v1/jobs/x"] = {**documents.JOB, "attempts": [attempt]}
        whole = supctl("jobs", "show", "x").out
        for key in attempt:
            peer.answers["/v1/jobs/x"] = {**documents.JOB, "attempts": [{**attempt, key: None}]}
            assert supctl("jobs", "show", "x").out != whole, key

    def test_record_json(self, supctl, peer):
        peer.answers["/v1/jobs/7f3a"] = documents.JOB
        assert supctl("jobs", "show", "7f3a", "--json").out == json.dumps(documents.JOB) + "\n"

    def test_unknown(self, supctl, peer):
        ended = supctl("jobs", "show", "ffff")
        assert (ended.status, ended.err) == (6, "supctl: there is no /v1/jobs/ffff\n")

    def test_ambiguous(self, supctl, peer):
        peer.answers["/v1/jobs/7"] = (409, documents.error("conflict", "7 is the beginning of 12 jobs"))
        assert supctl("jobs", "show", "7").status == 1

    def test_statuses_are_those_of_the_core(self):
        assert tuple(JobStatus) == STATUSES


class TestSince:
    NOW = 1_000_000.0

    @pytest.mark.parametrize(
        ("text", "ago"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("1.5H", 5400), ("2d", 172_800), (" 1 w ", 604_800)]
    )
    def test_spans(self, text, ago):
        assert since(text, self.NOW) == self.NOW - ago

    def test_date_with_zone(self):
        assert since("2026-11-20T14:00:00Z", self.NOW) == datetime(2026, 11, 20, 14, tzinfo=UTC).timestamp()

    @pytest.mark.parametrize("text", ["", "h", "-1h", "1y", "yesterday", "2026-13-01", "99999-01-01"])
    def test_mistakes(self, text):
        with pytest.raises(ValueError, match="is no time; write"):
            since(text, self.NOW)

    def test_is_taken_from_now(self, supctl, peer):
        peer.answers["/v1/jobs"] = JOBS
        before = datetime.now(UTC).timestamp()
        supctl("jobs", "--since", "1h")
        after = datetime.now(UTC).timestamp()
        assert before - 3600 <= float(peer.seen[0].query["since"]) <= after - 3600


class TestEvents:
    def test_lines(self, supctl, peer, golden):
        peer.answers["/v1/events"] = {"events": documents.EVENTS}
        golden("events", supctl("events").out)
        assert peer.seen[0].query == {"limit": "20"}

    def test_colour(self, supctl, peer):
        peer.answers["/v1/events"] = {"events": documents.EVENTS}
        assert "\x1b[31mbackend.exit\x1b[0m  " in supctl("events", "--color").out

    def test_filters(self, supctl, peer):
        peer.answers["/v1/events"] = {"events": []}
        assert supctl("events", "-n", "5", "--backend", "llama").out == ""
        assert peer.seen[0].query == {"limit": "5", "backend": "llama"}

    def test_json(self, supctl, peer):
        document = {"events": documents.EVENTS}
        peer.answers["/v1/events"] = document
        assert supctl("events", "--json").out == json.dumps(document) + "\n"

    def test_time_outside_the_calendar(self, supctl, peer):
        peer.answers["/v1/events"] = {"events": [{**documents.EVENTS[0], "at": 1e300}]}
        assert supctl("events").out.startswith(f"{ABSENT}  daemon.started")

    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_follows_over_a_restart_of_the_daemon(self, supctl, socket_path, options):
        """What happened meanwhile is asked for by the last number seen; what was told already is not told again."""
        known, live, missed, later = ({**event, "message": f"{name}."} for event, name in zip(
            documents.EVENTS, ("known", "live", "missed", "later"), strict=False))  # fmt: skip
        with contextlib.ExitStack() as first:
            peer = first.enter_context(daemon(socket_path))
            stream = peer.stream()
            peer.answers = {"/v1/events": {"events": [known]}, "/v1/events?follow": stream}
            with supctl.running("events", "-f", "-n", "3", *options) as running:
                for line in ("", "[]", json.dumps(known), json.dumps({**live, "id": None})):
                    stream.send(line)  # the first two only keep the connection warm
                running.wait_for("live.")
                assert peer.seen[-1].query == {"limit": "3", "follow": "1"}
                first.close()  # the daemon is gone
                running.wait_for_error("the daemon went away, waiting for it …")
                with daemon(socket_path) as peer:
                    stream = peer.stream()
                    peer.answers = {"/v1/version": documents.VERSION, "/v1/events?follow": stream}
                    for event in (live, missed, {**later, "id": None}):
                        stream.send(json.dumps(event))
                    running.wait_for("later.")
                    assert peer.seen[-1].query == {"after": "1", "limit": "1000", "follow": "1"}
                    assert running.interrupt() == 130
                told = re.findall(r"(known|live|missed|later)\.", running.rest())
        assert told == ["known", "live", "missed", "later"]

    def test_follow_waits_for_a_daemon_that_comes_back_slowly(self, supctl, socket_path):
        with contextlib.ExitStack() as first:
            peer = first.enter_context(daemon(socket_path))
            stream = peer.stream()
            peer.answers = {"/v1/events": {"events": []}, "/v1/events?follow": stream}
            with supctl.running("events", "-f", "--answer-timeout", "0.2") as running:
                stream.send(json.dumps(documents.EVENTS[0]))
                running.wait_for("started")
                first.close()
                running.wait_for_error("waiting for it …")
                with daemon(socket_path) as peer:
                    peer.answers["/v1/version"] = stalled = peer.stream()  # it listens, and is not ready yet
                    assert stalled.left.wait(10.0)
                    stream = peer.stream()
                    peer.answers = {"/v1/version": documents.VERSION, "/v1/events?follow": stream}
                    stream.send(json.dumps(documents.EVENTS[1]))
                    running.wait_for("out of memory")
                    assert running.interrupt() == 130

    def test_follow_of_nothing_is_a_failure(self, supctl):
        assert supctl("events", "-f").status == 3
