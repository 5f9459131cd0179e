"""How supctl ends: each exit status, by the real process, with words that say what to do next."""

import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.supctl import documents
from tests.cli.supctl.peer import broken
from tests.cli.supctl.program import ARGV, BOUND_S, environment

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class TestNotRunning:
    def test_no_socket(self, supctl, socket_path):
        ended = supctl("status")
        assert (ended.status, ended.out) == (3, "")
        assert f"{socket_path}: no such socket" in ended.err
        assert "systemctl start llm-supervisord" in ended.err

    def test_socket_left_behind(self, supctl, socket_path):
        with closing(socket.socket(socket.AF_UNIX)) as left:
            left.bind(str(socket_path))
        ended = supctl("status")
        assert ended.status == 3
        assert "nobody listens" in ended.err

    def test_path_too_long_for_a_socket(self, supctl):
        ended = supctl("status", "--socket", "/tmp/" + "x" * 200)
        assert ended.status == 3
        assert "too long" in ended.err

    @pytest.mark.parametrize(
        "reply",
        [b"", HEAD, HEAD + b"Content-Length: 100\r\n\r\n{", HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"],
        ids=["nothing", "half a head", "half a body", "half a chunk"],
    )
    def test_hangs_up(self, supctl, socket_path, reply):
        with broken(socket_path, reply):
            ended = supctl("status")
        assert ended.status == 3
        assert "closed the connection" in ended.err

    @pytest.mark.skipif(Path("/run/llm-supervisord").exists(), reason="a daemon is installed on this machine")
    def test_default_paths_are_named(self, tmp_path):
        env = environment(HOME=str(tmp_path), XDG_RUNTIME_DIR=str(tmp_path / "run"))
        done = subprocess.run([*ARGV, "status"], env=env, capture_output=True, timeout=BOUND_S, check=False)
        assert done.returncode == 3
        tried = done.stderr.decode()
        assert "/run/llm-supervisord/control.sock: no such socket" in tried
        assert f"{tmp_path}/run/llm-supervisord/control.sock: no such socket" in tried
        assert f"{tmp_path}/.local/state/llm-supervisord/control.sock: no such socket" in tried


class TestDenied:
    def test_by_the_daemon(self, supctl, peer):
        peer.answers["/v1/status"] = (403, documents.error("forbidden_peer", "uid 1000 is not in the group"))
        ended = supctl("status")
        assert (ended.status, ended.err) == (4, "supctl: uid 1000 is not in the group\n")

    def test_by_file_mode(self, peer, socket_path):
        socket_path.parent.chmod(0o700)
        socket_path.chmod(0o600)
        # Root passes every mode, so the process becomes nobody, once it has loaded what only root may read here.
        code = (
            "import os, sys, atexit, locale, supervisord.cli.supctl, supervisord.cli.supctl.commands.status as _\n"
            "if os.geteuid() == 0: os.seteuid(65534); atexit.register(os.seteuid, 0)\n"
            f"else: os.chmod({str(socket_path)!r}, 0)\n"
            "sys.argv[1:] = ['status']; supervisord.cli.supctl.main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment(LLM_SUPERVISORD_SOCKET=str(socket_path)),
            capture_output=True,
            timeout=BOUND_S,
            check=False,
        )
        assert done.returncode == 4, done.stderr.decode()
        assert f"permission denied on {socket_path}" in done.stderr.decode()
        assert "usermod -aG llm-supervisord" in done.stderr.decode()


class TestTimeout:
    def test_no_answer(self, supctl, peer):
        peer.answers["/v1/status"] = peer.stream()  # its head comes, and then nothing
        ended = supctl("status", "--answer-timeout", "0.3")
        assert ended.status == 5
        assert "no answer within 0.3 s" in ended.err

    def test_no_head(self, supctl, socket_path):
        with broken(socket_path, b"HTTP/1.1 200", hang_up=False):
            assert supctl("--answer-timeout", "0.3", "status").status == 5

    def test_nobody_accepts(self, supctl, socket_path):
        with closing(socket.socket(socket.AF_UNIX)) as listener, closing(socket.socket(socket.AF_UNIX)) as first:
            listener.bind(str(socket_path))
            listener.listen(0)
            first.connect(str(socket_path))
            ended = supctl("status", "--answer-timeout", "0.3")
        assert ended.status == 5
        assert "takes no connections" in ended.err

    def test_full_backlog_that_empties(self, supctl, socket_path):
        """A busy daemon that accepts a moment later is not a failure."""
        with closing(socket.socket(socket.AF_UNIX)) as listener, closing(socket.socket(socket.AF_UNIX)) as first:
            listener.bind(str(socket_path))
            listener.listen(0)
            first.connect(str(socket_path))
            with supctl.running("status", "--json") as running:
                with pytest.raises(subprocess.TimeoutExpired):
                    running.process.wait(1.0)
                listener.settimeout(BOUND_S)
                listener.accept()[0].close()
                with closing(listener.accept()[0]) as client:
                    client.recv(65536)
                    client.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")
                    ended = running.stop()
        assert (ended.status, ended.out) == (0, "{}\n")

    def test_answer_in_drips_is_bounded_as_a_whole(self, supctl, peer):
        """Each byte comes in time; the answer as a whole does not."""
        drip = peer.stream()
        peer.answers["/v1/status"] = drip
        with supctl.running("status", "--answer-timeout", "0.5") as running:
            for _ in range(250):
                drip.send(" ")
                if drip.left.wait(0.02):
                    break
            assert drip.left.is_set()
            assert running.stop().status == 5


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "Expected HTTP/"),
        (HEAD + b"X-Filler: " + b"x" * 200_000, "head is longer than 64 KiB"),
        (HEAD + b"Content-Length: 5\r\n\r\nhello", "not JSON"),
        (HEAD + b"Content-Length: 2\r\n\r\n[]", "not a JSON object"),
        (HEAD + b"Content-Length: 200000\r\n\r\n" + b"[" * 200_000, "not JSON"),
        (HEAD + b"Content-Length: 100000000\r\n\r\n" + b" " * 17_000_000, "longer than 16 MiB"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "HTTP status 500 without a reason"),
    ],
    ids=["another protocol", "a head without end", "no JSON", "a list", "deep", "huge", "error without reason"],
)
def test_foreign_answers(supctl, socket_path, reply, words):
    with broken(socket_path, reply):
        ended = supctl("status")
    assert ended.status == 1
    assert words in ended.err
    assert "Traceback" not in ended.err


def test_refusal_without_message(supctl, peer):
    peer.answers["/v1/status"] = (503, {"error": {"code": "draining"}})
    ended = supctl("status")
    assert (ended.status, ended.err) == (1, "supctl: the daemon refused with HTTP status 503 and gave no reason\n")


@pytest.mark.parametrize(
    "arguments",
    [(), ("nope",), ("status", "--nope"), ("start",), ("logs",), ("jobs", "show"), ("jobs", "--status", "lost"),
     ("jobs", "--since", "yesterday"), ("status", "--watch", "0"), ("--answer-timeout", "0", "status"),
     ("completion", "tcsh")],
)  # fmt: skip
def test_usage(supctl, arguments):
    ended = supctl(*arguments)
    assert ended.status == 2
    assert "Usage: supctl" in ended.err


def test_full_disk(supctl, peer):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*ARGV, "status"],
            env=environment(LLM_SUPERVISORD_SOCKET=str(supctl.socket)),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=BOUND_S,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"supctl: the output cannot be written: No space left on device\n")


def test_reader_who_has_left_is_no_failure(supctl, peer):
    stream = peer.stream()
    peer.answers["/v1/backends/llama/logs?follow"] = stream
    with supctl.running("logs", "llama", "-f") as running:
        stream.send("first")
        running.wait_for("first\n")
        running.hang_up()
        stream.send("second")
        ended = running.stop()
    assert (ended.status, ended.err) == (0, "")


def test_interrupted(supctl, peer):
    stream = peer.stream()
    peer.answers["/v1/backends/llama/logs?follow"] = stream
    with supctl.running("logs", "llama", "-f") as running:
        stream.send("first")
        running.wait_for("first\n")
        assert running.interrupt() == 130
        assert running.stop().err == ""


def test_output_that_cannot_show_a_letter(supctl, peer):
    ended = supctl("status", PYTHONUTF8="0", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert ended.status == 0
    assert "12k ?" in ended.out
