"""The files in etc/examples are read as they stand, with no variable set, and mean what their comments say."""

from pathlib import Path

import pytest

from supervisord.config.load import load
from supervisord.config.model import Configuration
from supervisord.config.places import Surroundings
from supervisord.core.ladder import Footprint
from supervisord.runtimes.base import BackendSpec, RuntimeKind
from supervisord.runtimes.registry import RUNTIMES

EXAMPLES = Path(__file__).parents[2] / "etc" / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.yaml"))


def loaded(name: str, **environment: str) -> Configuration:
    around = Surroundings(environment, "/home/somebody", root=False, folder=str(EXAMPLES))
    return load(str(EXAMPLES / name), around)


def backend(name: str, of: str, **environment: str) -> BackendSpec:
    (found,) = [spec for spec in loaded(of, **environment).backends if spec.name == name]
    return found


def test_they_are_there() -> None:
    assert len(NAMES) == 7


@pytest.mark.parametrize("name", NAMES)
def test_each_is_sound_and_each_of_its_backends_can_be_started_or_reached(name: str) -> None:
    backends = loaded(name).backends
    assert backends
    for spec in backends:
        runtime = RUNTIMES[spec.runtime]
        assert runtime.address(spec, 4242).port
        assert runtime.ready_path(spec).startswith("/")
        if runtime.has_process:
            launch = runtime.launch(spec, Footprint(), 4242, ("program",), frozenset())
            said = " ".join((*launch.argv, *launch.env.values(), *launch.stop))
            assert "4242" in said  # it is told its port
            assert "${" not in said


def test_ollama_is_told_where_to_listen_and_what_the_daemon_counts_on() -> None:
    spec = backend("ollama", "ollama.yaml")
    env = RUNTIMES[spec.runtime].launch(spec, Footprint(), 4242, (), frozenset()).env
    assert (env["OLLAMA_HOST"], env["OLLAMA_NUM_PARALLEL"]) == ("127.0.0.1:4242", str(spec.slots))
    assert env["HOME"] == "/var/lib/llm-supervisord"
    assert backend("ollama", "ollama.yaml", HOME="/home/a").env["HOME"] == "/home/a"


def test_the_key_of_the_cloud_comes_from_the_environment() -> None:
    for environment, headers in (
        ({}, ()),
        ({"OPENAI_API_KEY": "sk-1"}, (("authorization", "Bearer sk-1"),)),
    ):
        spec = backend("cloud", "remote.yaml", **environment)
        address = RUNTIMES[RuntimeKind.REMOTE].address(spec, 0)
        assert (address.host, address.port, address.tls) == ("api.openai.com", 443, True)
        assert address.headers == headers


def test_what_costs_money_comes_last() -> None:
    (route,) = [route for route in loaded("remote.yaml").routes if route.name == "chat"]
    assert (route.backends, route.last_resort) == (("local", "neighbour"), ("cloud",))


def test_only_one_of_two_large_models_starts_with_the_daemon() -> None:
    specs = {spec.name: spec for spec in loaded("two-models-one-gpu.yaml").backends}
    assert [name for name, spec in specs.items() if spec.autostart] == ["chat", "embedder"]
    assert specs["embedder"].pinned
