"""reload: what it did, or all that is wrong."""

import json

from tests.cli.supctl import documents

DONE = {
    "added": ["b"], "removed": [], "changed": ["a"], "adjusted": [], "unchanged": [], "kept": ["listen"],
    "applied": [], "message": "added b; restarted a (context); holds after a restart of the daemon: listen",
}  # fmt: skip


def test_tells_what_it_did(supctl, peer):
    peer.answers["/v1/reload"] = DONE
    ended = supctl("reload")
    assert (ended.status, ended.out) == (0, DONE["message"] + "\n")
    assert ended.err == "supctl: see what becomes of it: supctl status\n"
    assert (peer.seen[0].method, peer.seen[0].body) == ("POST", {})


def test_says_no_more_where_nothing_starts(supctl, peer):
    peer.answers["/v1/reload"] = {"message": "nothing to apply"}
    ended = supctl("reload")
    assert (ended.out, ended.err) == ("nothing to apply\n", "")


def test_json(supctl, peer):
    peer.answers["/v1/reload"] = DONE
    ended = supctl("reload", "--json")
    assert (ended.out, ended.err) == (json.dumps(DONE) + "\n", "")


def test_a_bad_file_is_told_problem_by_problem(supctl, peer):
    problems = (
        "2 problems in c.yaml, nothing was changed\n  a.contex   unknown setting   line 7\n  b\x1b[2J   bad   line 9"
    )
    peer.answers["/v1/reload"] = (422, documents.error("bad_configuration", problems))
    ended = supctl("reload")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.splitlines() == [
        "supctl: 2 problems in c.yaml, nothing was changed",
        "  a.contex   unknown setting   line 7",
        "  b [2J   bad   line 9",
    ]


def test_waits_as_long_as_told(supctl, peer):
    peer.answers["/v1/reload"] = peer.stream()
    ended = supctl("reload", "--timeout", "1", "--answer-timeout", "0.1")
    assert ended.status == 5
    assert "no answer within 1.1 s" in ended.err
