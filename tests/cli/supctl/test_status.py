"""`supctl status`, as a real process in front of a daemon with canned answers."""

import json
import re

import pytest

from supervisord.cli.supctl.figures import ABSENT
from tests.cli.supctl import documents
from tests.cli.supctl.peer import daemon

ESCAPE = "\x1b"


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("name", ["STATUS", "TROUBLED", "BARE", "HELD"])
def test_report(supctl, peer, golden, name, width):
    peer.answers["/v1/status"] = getattr(documents, name)
    ended = supctl("status", COLUMNS=str(width))
    assert (ended.status, ended.err) == (0, "")
    assert max(map(len, ended.out.splitlines())) <= width
    golden(f"status-{name.lower()}-{width}", ended.out)


def test_piped_output_is_120_columns_wide(supctl, peer, golden):
    golden("status-status-120", supctl("status").out)


def test_json_is_what_the_daemon_sent(supctl, peer):
    ended = supctl("status", "--json")
    assert ended.out == json.dumps(documents.STATUS) + "\n"


@pytest.mark.parametrize("width", [60, 120])
def test_details_of_each_backend(supctl, peer, golden, width):
    peer.answers["/v1/status"] = documents.DETAILED
    whole = supctl("status", "--verbose", COLUMNS=str(width)).out
    plain = supctl("status", COLUMNS=str(width)).out
    assert whole.startswith(plain)
    golden(f"status-details-{width}", whole.removeprefix(plain))


def test_details_of_some_backends(supctl, peer):
    peer.answers["/v1/status"] = documents.DETAILED
    ended = supctl("status", "gone", "whole")
    assert [line for line in ended.out.splitlines() if line and line[0] != " "] == [
        "control groups  v1, with memory; the pids controller is not there",
        "store           4 KiB in /var/lib/llm-supervisord/jobs.sqlite",
        "gone  parked for 2h 10m",
        "whole  ready for 2h 10m",
    ]
    unknown = supctl("status", "n\x1bo")
    assert (unknown.status, unknown.err) == (6, "supctl: there is no backend n o. See: supctl status\n")


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ({}, "none"),
        ({"kind": "none", "problem": "switched off"}, "none: switched off"),
        ({"kind": "v2"}, "v2, with no"),
    ],
)
def test_what_control_groups_do(supctl, peer, groups, told):
    peer.answers["/v1/status"] = {**documents.DETAILED, "groups": groups}
    assert supctl("status", "-v", "small").out.startswith(f"control groups  {told}")


def test_empty_object_is_shown_with_dashes(supctl, peer):
    peer.answers["/v1/status"] = {"backends": [{}], "gpus": [{}], "host": 7, "queue": [], "jobs_today": {"done": "x"}}
    ended = supctl("status")
    assert ended.status == 0
    assert f"up {ABSENT}" in ended.out


def test_file_names_lose_what_is_known(supctl, peer):
    name = "Llama-3.3-70B-Instruct.Q4_K_M.gguf"
    peer.answers["/v1/status"] = {"backends": [documents.backend("llama", model=name)]}
    assert " Llama-3.3-70B-Instruct.Q4_K_M  12k " in supctl("status", COLUMNS="200").out


@pytest.mark.parametrize(
    ("told", "shown"), [("Q4_K - Medium", "70B Q4_K_M "), ("Q3_K - Small", "70B Q3_K_S "), ("Q6_K", "70B Q6_K ")]
)
def test_quantization_as_people_write_it(supctl, peer, told, shown):
    peer.answers["/v1/status"] = {"backends": [documents.backend("llama", quantization=told)]}
    assert f"  {shown}" in supctl("status").out


def test_what_to_do_about_a_missing_sensor_is_not_cut(supctl, peer):
    problem = "NVML: shared library not found: install the driver's libnvidia-ml.so.1 if this machine has a GPU"
    peer.answers["/v1/status"] = {"gpu_sensor": {"state": "absent", "problem": problem}}
    lines = supctl("status", COLUMNS="80").out.splitlines()
    assert f"{lines[2]} {lines[3].strip()}" == f"gpu   none ({problem})"


def test_durable_jobs_that_wait_are_told_beside_the_queue(supctl, peer):
    queue = {**documents.STATUS["queue"], "backlog": 1580}
    peer.answers["/v1/status"] = {**documents.STATUS, "queue": queue}
    assert "  queue 12 (oldest 41 s)  backlog 1\N{NO-BREAK SPACE}580  " in supctl("status", COLUMNS="200").out


def test_gpu_that_misses_figures(supctl, peer):
    gpu = {"index": 3, "name": "H200", "state": "stale", "holders": []}
    failing = {"index": 4, "name": "H200", "state": "failing", "problem": "Unknown Error"}
    peer.answers["/v1/status"] = {"gpu_sensor": {"state": "failing"}, "gpus": [gpu, failing]}
    lines = supctl("status").out.splitlines()
    assert "gpu   sensor failing" in lines
    assert "gpu3  H200  VRAM 0.0/0.0 GiB   stale" in lines
    assert "gpu4  H200  VRAM 0.0/0.0 GiB   its sensor fails: Unknown Error" in lines


def test_pools_that_cannot_be_told_whole(supctl, peer):
    peer.answers["/v1/status"] = documents.BROKEN_POOLS
    lines = supctl("status").out.splitlines()
    assert lines[2].startswith("gpu0"), "a host of whose memory nobody holds anything gets no line"
    assert "Xorg" not in lines[2], "who holds memory is told once"
    told = "measured 42 s ago   a 1.0, leaving   b 0.0 of ~1.0, starting   c waits for its place   pid 77"
    assert lines[3] == f"      {told} {ABSENT}"


def test_narrow_pools_are_not_wider_than_the_screen(supctl, peer):
    peer.answers["/v1/status"] = documents.HELD
    lines = supctl("status", COLUMNS="40").out.splitlines()
    assert max(map(len, lines[: lines.index("")])) <= 40
    assert "      extract-8b waits for ~14.0" in lines


def test_machine_with_little(supctl, peer):
    host = {**documents.HOST, "swap_total_bytes": 0, "stall_some_percent": None}
    peer.answers["/v1/status"] = {"host": host}
    assert "host  RAM 31.2/64.0 GiB   no swap   stall " + ABSENT in supctl("status").out
    peer.answers["/v1/status"] = {"host": {**documents.HOST, "swap_in_bytes_per_s": None}}
    assert "swap 0.4/16.0 GiB   stall 0 %" in supctl("status").out


def test_texts_of_others_cannot_steer_the_terminal(supctl, peer):
    peer.answers["/v1/status"] = {
        **documents.STATUS,
        "backends": [documents.backend("llama", note="\x1b]0;owned\x07\nfake row\x9b2J")],
    }
    ended = supctl("status", "--color")
    assert ended.status == 0
    assert set(re.findall(r"\x1b[^m]*m", ended.out)) <= {"\x1b[0m", "\x1b[1m", "\x1b[32m", "\x1b[33m"}
    assert "\x07" not in ended.out
    assert "\x9b" not in ended.out
    assert "fake row" in ended.out.splitlines()[-1]


def test_wide_letters_keep_the_columns(supctl, peer):
    peer.answers["/v1/status"] = {
        **documents.STATUS,
        "backends": [
            documents.backend("日本語モデル", note="ready"),
            documents.backend("e\u0301tude-combining", note="ready"),
            documents.backend("plain-ascii-name", note="ready"),
        ],
    }
    rows = supctl("status", COLUMNS="200").out.splitlines()[-3:]
    wide, combining, plain = (row.index("41822") for row in rows)
    assert (wide, combining) == (plain - 6, plain + 1)  # six letters of two columns; one mark of none


class TestColour:
    def test_none_on_a_pipe(self, supctl, peer):
        assert ESCAPE not in supctl("status").out

    @pytest.mark.parametrize("place", [("--color", "status"), ("status", "--color")])
    def test_asked_for(self, supctl, peer, place):
        assert f"{ESCAPE}[32mready{ESCAPE}[0m" in supctl(*place).out

    def test_later_mention_wins(self, supctl, peer):
        assert ESCAPE not in supctl("--color", "status", "--no-color").out

    @pytest.mark.parametrize(
        ("env", "coloured"),
        [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
    )
    def test_on_a_terminal(self, supctl, peer, env, coloured):
        with supctl.running("status", terminal=(100, 40), env=env) as running:
            running.wait_for("cloud")
            assert (ESCAPE in running.rest()) is coloured
            assert running.stop().status == 0

    def test_colour_changes_no_letter(self, supctl, peer):
        plain = supctl("status").out
        assert re.sub(r"\x1b\[\d*m", "", supctl("status", "--color").out) == plain


def test_terminal_gives_the_width(supctl, peer, golden):
    with supctl.running("status", "--no-color", terminal=(80, 40)) as running:
        golden("status-status-80", running.rest().replace("\r\n", "\n"))


class TestWatch:
    def test_redraws_in_place_until_interrupted(self, supctl, peer):
        with supctl.running("status", "--watch", "0.1", "--no-color", terminal=(120, 8)) as running:
            running.wait_for("queue 12")
            peer.answers["/v1/status"] = {**documents.STATUS, "queue": {"depth": 99}}
            running.wait_for("queue 99")
            assert running.interrupt() == 0
            frames = running.rest().split("\x1b[H")
        assert frames[-1].endswith("\x1b[?25h")  # the cursor is back
        assert "\x1b[2J" not in running.seen  # nothing is blanked between two frames
        assert all(frame.count("\n") <= 7 for frame in frames)  # fits, so the terminal does not scroll

    def test_survives_a_restart_of_the_daemon(self, supctl, socket_path):
        with supctl.running("status", "--watch", "0.1", terminal=(120, 30)) as running:
            running.wait_for("the daemon is not running, waiting …")
            with daemon(socket_path) as first:
                first.answers["/v1/status"] = documents.STATUS
                running.wait_for("queue 12")
            running.seen = ""
            running.wait_for("the daemon is not running, waiting …")
            with daemon(socket_path) as second:
                second.answers["/v1/status"] = {**documents.STATUS, "queue": {"depth": 77}}
                running.wait_for("queue 77")
            assert running.interrupt() == 0

    def test_on_a_pipe_nothing_is_drawn_over(self, supctl, peer):
        with supctl.running("status", "--watch", "0.1") as running:
            running.wait_for("cloud")
            running.seen = ""
            running.wait_for("cloud")
            assert running.interrupt() == 0
        assert ESCAPE not in running.seen

    def test_json_is_one_document_a_line(self, supctl, peer):
        with supctl.running("status", "--watch", "0.1", "--json") as running:
            running.wait_for("}\n{")
            assert running.interrupt() == 0
        assert json.loads(running.seen.splitlines()[0]) == documents.STATUS

    def test_waiting_on_a_pipe_is_said_on_stderr(self, supctl):
        with supctl.running("status", "--watch") as running:
            running.wait_for_error("the daemon is not running, waiting …")
            assert running.interrupt() == 0
            assert running.rest() == ""

    def test_silent_daemon_is_told_apart(self, supctl, peer):
        peer.answers["/v1/status"] = peer.stream()
        with supctl.running("status", "--watch", "0.1", "--answer-timeout", "0.2") as running:
            running.wait_for_error("the daemon does not answer, waiting …")
            assert running.interrupt() == 0

    def test_other_failures_end_it(self, supctl, peer):
        peer.answers["/v1/status"] = (403, documents.error("forbidden_peer", "uid 1000 may not"))
        assert supctl("status", "--watch").status == 4
