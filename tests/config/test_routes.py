"""Which backends serve which names: as written in `models`, and by the names of backends where nothing is written."""

import pytest

from supervisord.config.model import Configuration
from supervisord.config.parse import parse
from supervisord.config.places import Surroundings
from supervisord.core.routing import Parameters, Route, Routes, Strategy

AROUND = Surroundings({"STOP": "END"}, "/home/ada", root=False, folder="/srv/conf")
CLOUD = "cloud: {runtime: remote, url: https://a.example"


def read(text: str) -> Configuration:
    return parse(text.encode(), file="f", around=AROUND)


def routes(*backends: str, models: str = "{}") -> tuple[Route, ...]:
    lines = "".join(f"  {backend}\n" for backend in backends)
    return read(f"backends:\n{lines}models: {models}\n").routes


# --- without models --------------------------------------------------------------------------------------------------


def test_a_backend_serves_its_name_and_its_aliases() -> None:
    assert routes("a: {model: m, aliases: [x, y]}", "b: {model: m}") == (
        Route(("a", "x", "y"), ("a",)),
        Route(("b",), ("b",)),
    )


def test_backends_that_share_a_name_serve_it_together() -> None:
    assert routes("a: {model: m, aliases: [x]}", "b: {model: m, aliases: [x]}") == (
        Route(("a",), ("a",)),
        Route(("x",), ("a", "b")),
        Route(("b",), ("b",)),
    )
    assert routes("a: {model: m}", "b: {model: m, aliases: [a]}") == (Route(("a",), ("a", "b")), Route(("b",), ("b",)))


def test_the_higher_priority_is_preferred_and_then_the_place_in_the_file() -> None:
    shared = routes(
        "a: {model: m, aliases: [x]}",
        "b: {model: m, aliases: [x], priority: 5}",
        "c: {model: m, aliases: [x], priority: 5}",
    )[1]
    assert shared == Route(("x",), ("b", "c", "a"), strategy=Strategy.LEAST_BUSY)


def test_a_remote_backend_is_used_only_under_names_of_its_own() -> None:
    local = "a: {model: m, aliases: [x]}"
    assert routes(local, f"{CLOUD}, aliases: [x, y], priority: 9}}") == (
        Route(("a", "x"), ("a",)),
        Route(("cloud", "y"), ("cloud",)),
    )
    other = "far: {runtime: remote, url: https://b.example, aliases: [cloud]}"
    assert routes(f"{CLOUD}}}", other) == (Route(("cloud",), ("cloud", "far")), Route(("far",), ("far",)))


# --- models ----------------------------------------------------------------------------------------------------------


def test_every_setting_of_a_model_arrives() -> None:
    held = read("""\
backends:
  a: {model: m}
  b: {model: m}
  cloud: {runtime: remote, url: "https://a.example"}
models:
  chat:
    aliases: [gpt-4o, chat]
    backends: [b, a]
    last_resort: [cloud]
    strategy: priority
    set: {temperature: 0.2, stop: ["${env:STOP}", "é"], seed: }
    default: {top_p: 1, response_format: {type: json_object}, echo: true}
    strip: [logit_bias, user]
    max_tokens: {default: 1k, limit: 4k}
routing: {default: gpt-4o}
""")
    assert held.routes[0] == Route(
        names=("chat", "gpt-4o"),
        backends=("b", "a"),
        last_resort=("cloud",),
        strategy=Strategy.PRIORITY,
        parameters=Parameters(
            set={"temperature": "0.2", "stop": '["END","é"]', "seed": "null"},
            default={"top_p": "1", "response_format": '{"type":"json_object"}', "echo": "true"},
            strip=frozenset({"logit_bias", "user"}),
            max_tokens_default=1024,
            max_tokens_limit=4096,
        ),
    )
    assert held.routes[1:] == (Route(("a",), ("a",)), Route(("b",), ("b",)), Route(("cloud",), ("cloud",)))
    assert held.default_route == "gpt-4o"
    assert Routes(held.routes, held.default_route).named("nobody-knows").name == "chat"


def test_what_is_left_out_of_a_model() -> None:
    assert routes("a: {model: m}", models="{x: {backends: [a]}}")[0] == Route(("x",), ("a",))


def test_a_model_takes_its_names_away_from_backends() -> None:
    """Those keep their other names."""
    taken = routes(
        "a: {model: m, aliases: [x, y]}",
        "b: {model: m}",
        models="{b: {backends: [a]}, z: {backends: [b], aliases: [x]}}",
    )
    assert taken == (Route(("b",), ("a",)), Route(("z", "x"), ("b",)), Route(("a", "y"), ("a",)))


@pytest.mark.parametrize("default", ["a", "x", "chat", "other"])
def test_the_default_may_be_any_name(default: str) -> None:
    held = read(
        "backends: {a: {model: m, aliases: [x]}}\n"
        f"models: {{chat: {{backends: [a], aliases: [other]}}}}\nrouting: {{default: {default}}}"
    )
    assert Routes(held.routes, held.default_route).default is not None


def test_no_name_stands_in_two_routes() -> None:
    made = routes(
        "a: {model: m, aliases: [x, b, z]}",
        "b: {model: m, aliases: [x, z]}",
        f"{CLOUD}, aliases: [x, a]}}",
        models="{z: {backends: [a], aliases: [b]}}",
    )
    names = [name for route in made for name in route.names]
    assert sorted(names) == ["a", "b", "cloud", "x", "z"]
