"""why, incidents, incidents show and incidents export."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from supervisord.cli.supctl.commands.incidents import KINDS
from supervisord.cli.supctl.why_view import REASONS
from supervisord.core.incident import IncidentKind
from supervisord.core.job import FailureReason
from tests.cli.supctl import documents
from tests.cli.supctl.documents import HUNG, INCIDENT, INCIDENTS, NO_INCIDENTS

ID = INCIDENT["id"]


@pytest.fixture
def told(peer):
    """A daemon that has had its incidents."""
    peer.answers |= {
        "/v1/incidents": INCIDENTS,
        f"/v1/incidents/{ID}": INCIDENT,
        f"/v1/incidents/{HUNG['id']}": HUNG,
        f"/v1/jobs/{documents.JOB['id']}": documents.JOB,
    }
    return peer


class TestList:
    @pytest.mark.parametrize("width", [60, 80, 120, 200])
    def test_table(self, supctl, told, golden, width):
        ended = supctl("incidents", COLUMNS=str(width))
        assert (ended.status, ended.err) == (0, "")
        assert max(map(len, ended.out.splitlines())) <= width
        golden(f"incidents-{width}", ended.out)
        assert told.seen[0].query == {"limit": "20"}

    def test_filters(self, supctl, told):
        since = "2026-11-20T14:00"
        supctl("incidents", "--backend", "a b", "--kind", "hang", "--since", since, "--limit", "7")
        assert told.seen[0].query == {"backend": "a b", "kind": "hang", "since": "1795183200.0", "limit": "7"}

    def test_none(self, supctl, peer):
        peer.answers["/v1/incidents"] = NO_INCIDENTS
        assert supctl("incidents").out == "no incidents\n"

    def test_more_is_said_beside_the_output(self, supctl, peer):
        peer.answers["/v1/incidents"] = {**INCIDENTS, "more": True}
        assert "these are the newest 20" in supctl("incidents").err

    def test_json(self, supctl, told):
        assert supctl("incidents", "--json").out == json.dumps(INCIDENTS) + "\n"

    def test_kinds_are_those_of_the_core(self):
        assert tuple(IncidentKind) == KINDS

    def test_colour(self, supctl, told):
        out = supctl("incidents", "--color").out
        assert "\x1b[31mexit\x1b[0m" in out
        assert "\x1b[33mevicted\x1b[0m" in out


class TestShow:
    @pytest.mark.parametrize("width", [80, 120])
    def test_record(self, supctl, told, golden, width):
        golden(f"incident-{width}", supctl("incidents", "show", ID, COLUMNS=str(width)).out)

    def test_json(self, supctl, told):
        assert supctl("incidents", "show", ID, "--json").out == json.dumps(INCIDENT) + "\n"

    def test_unknown(self, supctl, peer):
        assert supctl("incidents", "show", "ffff").status == 6

    def test_control_characters_do_not_reach_the_terminal(self, supctl, peer):
        wild = {**INCIDENT, "log": ["\x1b[31mred"], "facts": {"a\x07": "\x1b[0m"}, "headline": "x\x1by"}
        peer.answers["/v1/incidents/x"] = wild
        assert "\x1b" not in supctl("incidents", "show", "x").out

    def test_least(self, supctl, peer):
        peer.answers["/v1/incidents/x"] = {}
        assert supctl("incidents", "show", "x").status == 0


class TestExport:
    EXPORT = {"format": 1, "incident": {"id": ID, "log": ["[removed] ä"]}, "removed": {"secrets": 2, "prompts": 1}}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def exported(self, told, tmp_path, monkeypatch):
        told.answers[f"/v1/incidents/{ID}/export"] = self.EXPORT
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))

    def test_into_a_file_of_its_own(self, supctl, tmp_path):
        ended = supctl("incidents", "export", ID)
        path = tmp_path / f"incident-{ID}.json"
        assert (ended.status, ended.out) == (0, f"{path.name} written, readable by you alone\n")
        assert ended.err == "supctl: removed: 2 secrets, 1 prompt. Read it before you hand it on\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert json.loads(path.read_text()) == self.EXPORT

    def test_into_a_named_file(self, supctl, tmp_path):
        assert supctl("incidents", "export", ID, "--output", "report.json").status == 0
        assert json.loads((tmp_path / "report.json").read_text()) == self.EXPORT

    def test_onto_the_output(self, supctl, tmp_path):
        ended = supctl("incidents", "export", ID, "-o", "-")
        assert json.loads(ended.out) == self.EXPORT
        assert "removed: 2 secrets" in ended.err
        assert list(tmp_path.glob("*.json")) == []

    def test_nothing_to_remove(self, supctl, told):
        told.answers[f"/v1/incidents/{ID}/export"] = {**self.EXPORT, "removed": {}}
        assert "nothing in it had to be removed" in supctl("incidents", "export", ID).err

    @pytest.mark.parametrize("there", ["file", "link"])
    def test_never_over_another_file(self, supctl, tmp_path, there):
        path = tmp_path / "report.json"
        path.write_text("sent") if there == "file" else path.symlink_to(tmp_path / "elsewhere")
        ended = supctl("incidents", "export", ID, "-o", str(path))
        assert ended.status == 1
        assert "is there already: move it away" in ended.err
        assert not (tmp_path / "elsewhere").exists()

    def test_a_folder_that_is_not_there(self, supctl):
        ended = supctl("incidents", "export", ID, "-o", "nowhere/report.json")
        assert (ended.status, "cannot be written: No such file or directory" in ended.err) == (1, True)

    def test_a_name_that_the_daemon_made_up_stays_in_the_folder(self, supctl, told, tmp_path):
        wild = {**self.EXPORT, "incident": {"id": "../../etc/x"}}
        told.answers[f"/v1/incidents/{ID}/export"] = wild
        assert supctl("incidents", "export", ID).status == 0
        assert (tmp_path / "incident-______etc_x.json").exists()


class TestWhy:
    def test_the_newest(self, supctl, told, golden):
        golden("why", supctl("why").out)
        assert [(seen.path, seen.query) for seen in told.seen] == [
            ("/v1/incidents", {"limit": "100"}), (f"/v1/incidents/{ID}", {}),
        ]  # fmt: skip

    def test_nothing(self, supctl, peer):
        peer.answers["/v1/incidents"] = NO_INCIDENTS
        ended = supctl("why")
        assert (ended.status, ended.out) == (
            0,
            "nothing went wrong since 2026-11-18 11:06:40, where the records begin\n",
        )
        peer.answers["/v1/incidents"] = {"incidents": []}
        assert supctl("why").out == "nothing went wrong\n"

    def test_a_backend(self, supctl, told):
        lines = supctl("why", "llama3-70b").out.splitlines()
        assert lines[:5] == [
            "llama3-70b is ready for 2h 10m now: rung 1 after GPU OOM (supctl events --backend llama3-70b).",
            "",
            "What last went wrong with it:",
            "",
            "llama3-70b ran out of GPU memory.",
        ]
        assert lines[-2:] == ["", "2 incidents before that: supctl incidents --backend llama3-70b"]
        assert told.seen[1].query == {"backend": "llama3-70b", "limit": "100"}

    def test_a_backend_that_had_one_or_very_many(self, supctl, told):
        told.answers["/v1/incidents"] = {"incidents": [INCIDENT]}
        assert "before that" not in supctl("why", "llama3-70b").out
        assert supctl("why").out.startswith("llama3-70b ran out of GPU memory.\n"), "there is no more to tell"
        told.answers["/v1/incidents"] = {**INCIDENTS, "more": True}
        assert "2 incidents before that at least: supctl incidents" in supctl("why", "llama3-70b").out
        assert supctl("why").out.startswith("3 incidents at least since ")

    def test_a_backend_in_trouble(self, supctl, peer):
        peer.answers |= {"/v1/status": documents.TROUBLED, "/v1/incidents": NO_INCIDENTS}
        ended = supctl("why", "backing-off", "--color")
        assert ended.out.splitlines() == [
            "\x1b[31mbacking-off is backoff for 2h 10m now: killed by SIGSEGV. It is started again in 12.4 s.\x1b[0m",
            "",
            "nothing went wrong with backing-off since 2026-11-18 11:06:40, where the records begin",
        ]

    @pytest.mark.parametrize("width", [80, 120])
    def test_a_job(self, supctl, told, golden, width):
        golden(f"why-job-{width}", supctl("why", documents.JOB["id"], COLUMNS=str(width)).out)
        assert told.seen[-1].query == {"job": documents.JOB["id"], "limit": "50"}

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"status": "queued", "position": 3}, "waits, at position 3"),
            ({"status": "queued", "attempts": [], "client": "", "queue_wait_s": None},
             "waits\n  At 2026-11-18 11:06:40 a client asked"),
            ({"status": "running"}, "is running"),
            ({"status": "running", "backend": "calm"}, "It runs on calm now."),
            ({"status": "cancelled", "reason": "client_left"}, "was cancelled"),
            ({"status": "abandoned", "reason": "daemon_died"}, "the daemon ended while it waited or ran"),
            ({"status": "failed", "reason": "poison", "detail": "two died"},
             "is not run again; look at what is in it (two died)."),
            ({"status": "failed", "reason": "cosmic_ray"}, "cosmic ray"),
            ({"status": "failed", "reason": None}, "without a reason"),
            ({"status": ""}, "is in an unknown state"),
        ],
    )  # fmt: skip
    def test_jobs_in_other_states(self, supctl, told, changes: dict[str, Any], words: str):
        told.answers["/v1/jobs/x"] = {**documents.JOB, "finished_at": None, **changes}
        if "reason" in changes:
            told.answers["/v1/jobs/x"]["finished_at"] = documents.AT + 5
        out = supctl("why", "x", COLUMNS="200").out
        assert words in out

    def test_only_the_incident_of_an_attempt_is_named_beside_it(self, supctl, told):
        other = {**INCIDENT, "generation": 6}
        told.answers["/v1/incidents"] = {"incidents": [HUNG, other]}
        assert "See: supctl why" not in supctl("why", documents.JOB["id"]).out

    def test_an_incident(self, supctl, told):
        assert supctl("why", ID).out.startswith("llama3-70b ran out of GPU memory.\n")

    def test_nobody(self, supctl, told):
        ended = supctl("why", "nob\x1body")
        assert (ended.status, ended.err) == (
            6,
            "supctl: there is no backend, job or incident nob ody. See: supctl status, supctl jobs, supctl incidents\n",
        )

    def test_json(self, supctl, told):
        assert supctl("why", "--json").out == json.dumps(INCIDENT) + "\n"
        assert supctl("why", "llama3-70b", "--json").out == json.dumps(INCIDENT) + "\n"
        assert supctl("why", ID, "--json").out == json.dumps(INCIDENT) + "\n"
        assert json.loads(supctl("why", documents.JOB["id"], "--json").out) == {
            "job": documents.JOB, "incidents": INCIDENTS["incidents"],
        }  # fmt: skip

    def test_json_of_nothing(self, supctl, peer):
        peer.answers["/v1/incidents"] = NO_INCIDENTS
        assert supctl("why", "--json").out == json.dumps(NO_INCIDENTS) + "\n"

    def test_every_reason_has_its_words(self):
        assert set(REASONS) == {reason.value for reason in FailureReason}


def completed(supctl, *words: str) -> list[str]:
    ended = supctl(
        _SUPCTL_COMPLETE="bash_complete", COMP_WORDS=" ".join(("supctl", *words)), COMP_CWORD=str(len(words))
    )
    return [line.partition(",")[2] for line in ended.out.splitlines() if line]


class TestCompletion:
    def test_of_backends(self, supctl, told):
        assert completed(supctl, "why", "l") == ["llama3-70b"]
        assert completed(supctl, "incidents", "--backend", "ext") == ["extract-8b"]

    def test_of_incidents(self, supctl, told):
        assert completed(supctl, "incidents", "show", "i") == [each["id"] for each in INCIDENTS["incidents"]]
        assert completed(supctl, "incidents", "export", ID) == [ID]

    def test_without_a_daemon(self, supctl):
        assert completed(supctl, "incidents", "show", "i") == []
