"""models, and the verbs where they are given the name of a model."""

import json

import pytest

from tests.cli.supctl import documents
from tests.cli.supctl.test_backends import phase


def of_model(*names_and_phases: tuple[str, str], message: str = "done"):
    return {
        "model": "llama3",
        "backends": [documents.backend(name, phase=phase) for name, phase in names_and_phases],
        "message": message,
    }


@pytest.mark.parametrize("width", [60, 120])
def test_listing(supctl, peer, golden, width):
    ended = supctl("models", COLUMNS=str(width))
    assert (ended.status, ended.err) == (0, "")
    assert max(map(len, ended.out.splitlines())) <= width
    golden(f"models-{width}", ended.out)


def test_no_models(supctl, peer):
    peer.answers["/v1/models"] = {"models": []}
    assert supctl("models").out == "no models are served\n"


def test_json(supctl, peer):
    assert supctl("models", "--json").out == json.dumps(documents.MODELS) + "\n"


class TestVerbs:
    @pytest.mark.parametrize(
        ("verb", "reached"), [("start", "ready"), ("load", "ready"), ("stop", "stopped"), ("unload", "stopped")]
    )
    def test_a_name_that_is_no_backend_is_a_model(self, supctl, peer, verb, reached):
        peer.answers[f"/v1/models/organization%2Fllama3/{verb}"] = of_model(("a", reached), message="a is there")
        ended = supctl(verb, "organization/llama3")
        assert (ended.status, ended.out) == (0, "a is there\n")
        assert [seen.path for seen in peer.seen] == [
            f"/v1/backends/organization/llama3/{verb}", f"/v1/models/organization/llama3/{verb}"
        ]  # fmt: skip
        assert peer.seen[1].body == {"wait_s": 300.0}

    def test_a_backend_wins(self, supctl, peer):
        peer.answers["/v1/backends/both/load"] = phase("both", "ready")
        peer.answers["/v1/models/both/load"] = of_model(("other", "ready"))
        assert supctl("load", "both").out == "both is ready\n"
        assert len(peer.seen) == 1

    def test_failures_are_those_of_backends(self, supctl, peer):
        ended = supctl("reset", "llama3")
        assert ended.status == 6
        assert [seen.path for seen in peer.seen] == ["/v1/backends/llama3/reset"]

    def test_only_asks(self, supctl, peer):
        peer.answers["/v1/models/llama3/unload"] = of_model(("a", "ready"))
        ended = supctl("unload", "llama3", "--no-wait")
        assert (ended.status, ended.out) == (0, "asked to unload llama3; see: supctl status\n")
        assert peer.seen[1].body == {}

    def test_neither(self, supctl, peer):
        peer.answers["/v1/backends/x/load"] = (404, documents.error("not_found", 'There is no backend "x".'))
        peer.answers["/v1/models/x/load"] = (404, documents.error("not_found", 'There is no model "x".'))
        ended = supctl("load", "x")
        assert (ended.status, ended.err) == (6, 'supctl: There is no backend "x". There is no model "x".\n')

    def test_all_of_them_are_waited_for(self, supctl, peer):
        peer.answers["/v1/models/llama3/stop"] = of_model(("a", "stopped"), ("b", "draining"))
        peer.answers["/v1/status"] = {
            "backends": [documents.backend("a", phase="stopped"), documents.backend("b", phase="stopped")]
        }
        ended = supctl("stop", "llama3")
        assert (ended.status, ended.out) == (0, "a is stopped; b is stopped\n")

    def test_the_one_that_fails_is_named(self, supctl, peer):
        peer.answers["/v1/models/llama3/restart"] = of_model(("a", "ready"), ("b", "parked"))
        ended = supctl("restart", "llama3")
        assert ended.status == 1
        assert "restart b failed, it is parked" in ended.err

    def test_nothing_to_unload(self, supctl, peer):
        peer.answers["/v1/models/llama3/unload"] = of_model(message="nothing of llama3 is loaded")
        assert supctl("unload", "llama3").out == "nothing of llama3 is loaded\n"

    def test_unloaded_is_also_what_is_parked(self, supctl, peer):
        peer.answers["/v1/backends/a/unload"] = phase("a", "parked")
        assert supctl("unload", "a").status == 0

    def test_what_it_waits_for_is_told(self, supctl, peer):
        held = {"held": "waits for b to finish its work", "note": ""}
        peer.answers["/v1/backends/a/load"] = phase("a", "starting", **held)
        peer.answers["/v1/status"] = {"backends": [documents.backend("a", phase="starting", **held)]}
        ended = supctl("load", "a", "--timeout", "1")
        assert ended.status == 5
        assert "a is still starting after 1 s: waits for b to finish its work; the daemon goes on" in ended.err
