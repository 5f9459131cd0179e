"""start, stop, restart, reset, load, unload and logs."""

import pytest

from tests.cli.supctl import documents


def phase(name: str, phase: str, **changes):
    return {"backend": documents.backend(name, phase=phase, **changes), "message": f"{name} is {phase}"}


@pytest.mark.parametrize(
    ("verb", "reached"),
    [("start", "ready"), ("stop", "stopped"), ("restart", "ready"), ("reset", "stopped"), ("load", "ready"),
     ("unload", "stopped")],
)  # fmt: skip
class TestVerbs:
    def test_waits_until_it_is_done(self, supctl, peer, verb, reached):
        peer.answers[f"/v1/backends/llama/{verb}"] = phase("llama", reached)
        ended = supctl(verb, "llama")
        assert (ended.status, ended.out, ended.err) == (0, f"llama is {reached}\n", "")
        (seen,) = peer.seen
        assert (seen.method, seen.path, seen.body) == ("POST", f"/v1/backends/llama/{verb}", {"wait_s": 300.0})

    def test_only_asks(self, supctl, peer, verb, reached):
        peer.answers[f"/v1/backends/llama/{verb}"] = phase("llama", "ready")  # what it was before it heard
        ended = supctl(verb, "llama", "--no-wait")
        assert (ended.status, ended.out) == (0, f"asked to {verb} llama; see: supctl status\n")
        assert peer.seen[0].body == {}

    def test_daemon_that_answers_early_is_asked_again(self, supctl, peer, verb, reached):
        peer.answers[f"/v1/backends/llama/{verb}"] = phase("llama", "draining")
        peer.answers["/v1/status"] = {"backends": [documents.backend("llama", phase=reached)]}
        ended = supctl(verb, "llama")
        assert (ended.status, ended.out) == (0, f"llama is {reached}\n")

    def test_not_done_in_time(self, supctl, peer, verb, reached):
        peer.answers[f"/v1/backends/llama/{verb}"] = phase("llama", "draining")
        ended = supctl(verb, "llama", "--timeout", "1")
        assert ended.status == 5
        assert "llama is still draining after 1 s; the daemon goes on with it" in ended.err
        assert peer.seen[0].body == {"wait_s": 1.0}

    def test_unknown_backend(self, supctl, peer, verb, reached):
        assert supctl(verb, "nobody").status == 6

    def test_conflict(self, supctl, peer, verb, reached):
        peer.answers[f"/v1/backends/llama/{verb}"] = (409, documents.error("conflict", "llama is unkillable"))
        ended = supctl(verb, "llama")
        assert (ended.status, ended.err) == (1, "supctl: llama is unkillable\n")


@pytest.mark.parametrize("phase_after", ["parked", "backoff", "unkillable"])
@pytest.mark.parametrize("verb", ["start", "restart", "reset"])
def test_failed_start(supctl, peer, verb, phase_after):
    peer.answers[f"/v1/backends/llama/{verb}"] = phase("llama", phase_after, last_reason="the model file is cut off")
    ended = supctl(verb, "llama", "--timeout", "1")
    assert ended.status == 1
    assert f"{verb} llama failed, it is {phase_after}: the model file is cut off. See: supctl logs llama" in ended.err


def test_every_name_has_its_turn(supctl, peer):
    peer.answers["/v1/backends/first/stop"] = (409, documents.error("conflict", "first is busy"))
    peer.answers["/v1/backends/third/stop"] = phase("third", "stopped")
    ended = supctl("stop", "first", "second", "third", "third")
    asked = [seen.path for seen in peer.seen]
    assert asked == [
        f"/v1/{name}/stop" for name in ("backends/first", "backends/second", "models/second", "backends/third")
    ]
    assert ended.status == 1  # of the first that failed
    assert ended.out == "third is stopped\n"
    assert "supctl: first: first is busy\n" in ended.err
    assert ended.err.endswith("supctl: 2 of 3 failed\n")


def test_name_is_one_segment_of_the_path(supctl, peer):
    peer.answers["/v1/backends/..%2Fstatus%3Fx/stop"] = phase("odd", "stopped")
    assert supctl("stop", "../status?x").status == 0


def test_answer_may_take_as_long_as_the_wait(supctl, peer):
    """The answer's own time-out counts from the end of the wait."""
    peer.answers["/v1/backends/llama/start"] = peer.stream()
    ended = supctl("start", "llama", "--timeout", "1", "--answer-timeout", "0.1")
    assert ended.status == 5
    assert "no answer within 1.1 s" in ended.err


def test_waiting_is_announced_on_a_terminal(supctl, peer):
    """Whoever sits before it learns what Ctrl-C would do; a script does not."""
    peer.answers["/v1/backends/llama/start"] = phase("llama", "ready")
    with supctl.running("start", "llama", terminal=(80, 24), errors_too=True) as running:
        assert running.rest().startswith("supctl: start llama: waiting up to 5m; Ctrl-C ends the waiting only")


def test_answer_without_message(supctl, peer):
    peer.answers["/v1/backends/llama/stop"] = {"backend": documents.backend("llama", phase="stopped")}
    assert supctl("stop", "llama").out == "llama is stopped\n"


class TestLogs:
    PATH = "/v1/backends/llama/logs"

    def test_prints_the_last_lines(self, supctl, peer):
        peer.answers[self.PATH] = "first\nsecond"
        ended = supctl("logs", "llama", "-n", "2")
        assert (ended.status, ended.out) == (0, "first\nsecond\n")
        assert peer.seen[0].query == {"lines": "2"}

    def test_follows_until_the_daemon_goes(self, supctl, peer):
        stream = peer.stream()
        peer.answers[f"{self.PATH}?follow"] = stream
        with supctl.running("logs", "llama", "-f") as running:
            stream.send("loading")
            running.wait_for("loading\n")
            stream.send("ready")
            running.wait_for("ready\n")
            stream.end()
            ended = running.stop()
        assert ended.status == 3
        assert "the daemon went away" in ended.err
        assert peer.seen[0].query == {"lines": "200", "follow": "1"}

    def test_silence_does_not_end_a_follow(self, supctl, peer):
        """Only the head of a followed answer is bounded by the answer's time-out."""
        stream = peer.stream()
        peer.answers[f"{self.PATH}?follow"] = stream
        with supctl.running("logs", "llama", "-f", "--answer-timeout", "0.2") as running:
            stream.send("first")
            running.wait_for("first")
            assert not stream.left.wait(0.6)
            stream.send("second")
            running.wait_for("second")

    def test_long_line_is_bounded(self, supctl, peer):
        peer.answers[self.PATH] = "x" * 3_000_000 + "\nend\n"
        lines = supctl("logs", "llama").out.splitlines()
        assert "".join(lines) == "x" * 3_000_000 + "end"
        assert max(map(len, lines)) < 1_200_000

    def test_pipe_gets_the_bytes_and_a_terminal_no_control_characters(self, supctl, peer):
        peer.answers[self.PATH] = "\x1b[2Jgone\tok\r\n"
        assert supctl("logs", "llama").out == "\x1b[2Jgone\tok\r\n"
        with supctl.running("logs", "llama", terminal=(80, 24)) as running:
            assert running.rest() == " [2Jgone        ok \r\n"

    def test_unknown_backend(self, supctl, peer):
        assert supctl("logs", "nobody").status == 6


class TestCompletion:
    @pytest.mark.parametrize(
        ("verb", "names"),
        [("start", ["llama3-70b", "llama3"]), ("logs", ["llama3-70b"]), ("reset", ["llama3-70b"])],
    )
    def test_names_come_from_the_daemon(self, supctl, peer, verb, names):
        ended = supctl(_SUPCTL_COMPLETE="bash_complete", COMP_WORDS=f"supctl {verb} l", COMP_CWORD="2")
        assert ended.out == "".join(f"plain,{name}\n" for name in names)

    def test_a_daemon_without_models_still_has_backends(self, supctl, peer):
        del peer.answers["/v1/models"]
        ended = supctl(_SUPCTL_COMPLETE="bash_complete", COMP_WORDS="supctl load l", COMP_CWORD="2")
        assert ended.out == "plain,llama3-70b\n"

    def test_silent_without_a_daemon(self, supctl):
        ended = supctl(_SUPCTL_COMPLETE="bash_complete", COMP_WORDS="supctl start l", COMP_CWORD="2")
        assert (ended.out.strip(), ended.err) == ("", "")

    def test_commands(self, supctl):
        ended = supctl(_SUPCTL_COMPLETE="bash_complete", COMP_WORDS="supctl re", COMP_CWORD="1")
        assert ended.out == "plain,restart\nplain,reset\nplain,reload\n"
