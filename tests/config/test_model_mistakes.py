"""Mistakes in `models` and `routing`, with the exact words people get."""

import pytest

from tests.fakes.config_problems import problems

BACKENDS = "backends: {big: {model: m}, small: {model: m, aliases: [tiny]}}"
DECIDED = "cannot be changed here: the daemon or the client decides it; leave it out"
NO_NAME = '" x" is not a model name; use at most 200 printable characters'


def chat(line: str) -> str:
    """A file with one model, of which `line` is on the third line."""
    return f"{BACKENDS}\nmodels:\n  chat: {line if line.startswith('{') else f'{{{line}}}'}\n"


@pytest.mark.parametrize(
    ("line", "where", "message"),
    [
        ("backends: [smal]", "backends[0]", 'there is no backend "smal"; did you mean "small"?'),
        ("backends: [zebra]", "backends[0]", 'there is no backend "zebra"; add it to backends, or leave it out'),
        # An alias is a name for clients, not a backend.
        ("backends: [tiny]", "backends[0]", 'there is no backend "tiny"; add it to backends, or leave it out'),
        (
            "{backends: [big], last_resort: [smal]}",
            "last_resort[0]",
            'there is no backend "smal"; did you mean "small"?',
        ),
        ("backends: [big, small, big]", "backends[2]", "big is listed twice; remove one"),
        ("{backends: [big], last_resort: [small, small]}", "last_resort[1]", "small is listed twice; remove one"),
        (
            "{backends: [big, small], last_resort: [small]}",
            "last_resort[0]",
            "small is in backends already; remove it from one of them",
        ),
        ("backends: []", "backends", "names no backend; a model needs at least one"),
        ("backends: big", "backends", '"big" is not a list; write [a, b], or one item a line after a dash'),
        ("backends: [3]", "backends[0]", '"3" is not text; put it in quotes'),
        ("{backends: [big], backend: x}", "backend", 'unknown setting; did you mean "backends"?'),
        ("{backends: [big], set_: {}}", "set_", 'unknown setting; did you mean "set"?'),
        ("{backends: [big], gpus: [0]}", "gpus", "unknown setting here; it belongs in backends.NAME"),
        (
            "{backends: [big], strategy: latent}",
            "strategy",
            '"latent" is not a strategy; did you mean "latency"?',
        ),
        (
            "{backends: [big], strategy: round_robin}",
            "strategy",
            '"round_robin" is not a strategy; write priority, least_busy or latency',
        ),
        ("{backends: [big], set: {model: x}}", "set.model", f'"model" {DECIDED}'),
        ("{backends: [big], default: {stream: true}}", "default.stream", f'"stream" {DECIDED}'),
        ("{backends: [big], strip: [user, messages]}", "strip[1]", f'"messages" {DECIDED}'),
        ("{backends: [big], set: {prompt: x}}", "set.prompt", f'"prompt" {DECIDED}'),
        ("{backends: [big], set: {input: x}}", "set.input", f'"input" {DECIDED}'),
        ("{backends: [big], set: {'': x}}", 'set.""', "is empty; give it a value or take the setting out"),
        ("{backends: [big], set: {top_p: .inf}}", "set.top_p", '"inf" has no form in JSON; write a finite number'),
        ("{backends: [big], set: [a]}", "set", "a list is not a mapping; write KEY: VALUE lines below it, indented"),
        (
            "{backends: [big], set: {seed: 1}, default: {seed: 2}}",
            "default.seed",
            "is in set too, which always wins; remove one",
        ),
        (
            "{backends: [big], set: {seed: 1}, strip: [seed]}",
            "strip[0]",
            "seed is in set too, which puts it back; remove one",
        ),
        (
            "{backends: [big], max_tokens: {default: 8k, limit: 4k}}",
            "max_tokens.default",
            "default (8k) must not be above limit (4k)",
        ),
        (
            "{backends: [big], max_tokens: {limit: 0}}",
            "max_tokens.limit",
            '"0" is out of range; write 1 to 16M',
        ),
        (
            "{backends: [big], max_tokens: {limit: 5}, set: {max_tokens: 9}}",
            "set.max_tokens",
            "is decided by max_tokens of this model too; remove one of them",
        ),
        (
            "{backends: [big], max_tokens: {default: 5}, default: {max_completion_tokens: 9}}",
            "default.max_completion_tokens",
            "is decided by max_tokens of this model too; remove one of them",
        ),
        ("{backends: [big], aliases: [' x']}", "aliases[0]", NO_NAME),
        ("aliases: [x]", "backends", "missing; name the backends that serve it: [a, b]"),
    ],
)
def test_a_model(line: str, where: str, message: str) -> None:
    assert problems(chat(line)) == [(f"models.chat.{where}", message, 3)]


def test_a_name_that_no_model_can_have() -> None:
    """The rest of the file is still looked through."""
    text = f"{BACKENDS}\nmodels:\n  ' x': {{set: {{model: 1}}}}\nrouting: {{default: smal}}\n"
    assert problems(text) == [
        ('models." x"', NO_NAME, 3),
        ("routing.default", 'there is no model "smal"; did you mean "small"?', 4),
    ]


@pytest.mark.parametrize(
    ("models", "where", "message"),
    [
        (
            "{a: {backends: [big], aliases: [x]}, b: {backends: [big], aliases: [y, x]}}",
            "models.b.aliases[1]",
            '"x" is already an alias of models.a; a name belongs to one model',
        ),
        (
            "{a: {backends: [big], aliases: [b]}, b: {backends: [big]}}",
            "models.a.aliases[0]",
            '"b" is a model of its own; remove one of them',
        ),
        (
            "{a: {backends: [big], aliases: [b]}, b: {backends: [big], set: {model: 1}, aliases: 3}}",
            "models.a.aliases[0]",
            '"b" is a model of its own; remove one of them',
        ),
    ],
)
def test_a_name_belongs_to_one_model(models: str, where: str, message: str) -> None:
    assert (where, message, 2) in problems(f"{BACKENDS}\nmodels: {models}\n")


def test_a_default_that_nobody_serves() -> None:
    assert problems(f"{BACKENDS}\nrouting: {{default: smal}}\n") == [
        ("routing.default", 'there is no model "smal"; did you mean "small"?', 2)
    ]
    assert problems(f"{BACKENDS}\nmodels: {{chat: {{backends: [big]}}}}\nrouting: {{default: zebra}}\n") == [
        ("routing.default", 'there is no model "zebra"; add it to models, or leave it out', 3)
    ]


def test_what_is_broken_has_no_further_problems() -> None:
    """Whether a name is served cannot be told while the names themselves are broken."""
    text = "backends:\n  a: {model: m, aliases: [' x']}\nrouting: {default: chat}\n"
    assert problems(text) == [("backends.a.aliases[0]", NO_NAME, 2)]
    text = "backends: {a: 3}\nmodels: {chat: {backends: [a]}}\n"
    assert [problem[0] for problem in problems(text)] == ["backends.a"]
