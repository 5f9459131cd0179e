"""Whatever becomes of a file, it is a Configuration or a list of problems, each with a path and a line of the file."""

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from supervisord.config.model import Configuration
from supervisord.config.parse import parse
from supervisord.config.places import Surroundings
from supervisord.config.problem import InvalidConfigurationError
from tests.fakes.config_example import uncommented

AROUND = Surroundings(
    {"A": "1", "B": "x" * 50, "CLOUD_KEY": "sk-1", "EDITOR_KEY": "0123456789abcdef"},
    "/home/ada",
    root=False,
    folder="/etc/llm-supervisord",
)
# Live settings instead of comments: mutations should hit what is read.
LIVE = "\n".join(line for line in uncommented().splitlines() if line.strip() and not line.lstrip().startswith("#"))

SCRAPS = (
    *(
        "[",
        "]",
        "{",
        "}",
        ":",
        ": ",
        "- ",
        "\n",
        "\n  ",
        "\t",
        "'",
        '"',
        "#",
        "&a ",
        "*a",
        "!!int ",
        "!x ",
        "|\n",
        "? ",
    ),
    *(
        "<<: *a",
        "---\n",
        "...\n",
        "%YAML 9.9\n",
        "${env:A}",
        "${env:NO}",
        "${env:",
        "$${env:A}",
        "\u2028",
        "\x85",
        "\r",
    ),
    *("\ufeff", "\x00", "0x", "1_0", "1e999", ".inf", "-", "~", "null", "yes", "=", "2020-01-01", "1:30", "embedded"),
    *("runtime: vllm", "runtime: remote", "runtime: comand", "models:", "context: fitting", "${port}", "0-3,x", "-5%"),
    *('"\\ud800"', '"\\0"', '"\\U00110000"', "backends:", "model:", "ladder: [{}]", "vllm", "99999999999999999999"),
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The example with some places cut out, doubled, swapped, or filled with scraps of YAML."""
    text = LIVE
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 30)))
        scrap = draw(st.one_of(st.sampled_from(SCRAPS), st.text(max_size=5), st.just(text[start:end] * 2)))
        text = text[:start] + scrap + text[end:]
    return text


@st.composite
def rearranged(draw: st.DrawFn) -> str:
    """Lines of the example dropped, doubled and indented anew: mostly valid YAML that says something else."""
    lines = LIVE.splitlines()
    for _ in range(draw(st.integers(1, 5))):
        index = draw(st.integers(0, len(lines) - 1))
        target = draw(st.integers(0, len(lines) - 1))
        words = lines[index].strip()
        lines.insert(target, " " * draw(st.sampled_from([0, 2, 4, 6])) + words)
        if draw(st.booleans()):
            del lines[index]
    return "\n".join(lines)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(SCRAPS), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    *("backends", "model", "memory", "vram", "ladder", "kv", "env", "listen", "runtime", "x", ""),
                    *("models", "set", "strip", "aliases", "last_resort", "signatures", "words", "command", "url", "a"),
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)


def check(data: bytes) -> None:
    lines = data.count(b"\n") + 1
    try:
        configuration = parse(data, file="f", around=AROUND)
    except InvalidConfigurationError as error:
        found = error.problems
        text = error.message
    else:
        assert isinstance(configuration, Configuration)
        return
    assert found
    for problem in found:
        assert problem.where
        assert problem.message
        assert 1 <= problem.line <= lines
    assert len(text.split("\n")) == min(len(found), 50) + 1 + (len(found) > 50)
    text.encode()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_mutations_of_the_example(text: str) -> None:
    check(text.encode(errors="replace"))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rearranged())
def test_other_orders_of_the_example(text: str) -> None:
    check(text.encode())


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["backends", "models", "memory", "listen", "log", "routing", "x"]), values, max_size=4
    )
)
@example({"backends": {"a": {"runtime": ["vllm"]}}})
@example({"backends": {"a": {"runtime": "comand", "signatures": [{}, {"words": 1}], "stop": "x"}}})
@example({"models": {" ": {"set": {"model": 1}}, "a": 1}, "routing": {"default": "a"}})
def test_any_values_in_any_place(document: dict[str, object]) -> None:
    check(as_yaml(document).encode(errors="replace"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    check(data)


def as_yaml(value: object) -> str:
    """Flow YAML, whose texts are left bare now and then, as people leave them."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}": {as_yaml(inner)}' for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_yaml(inner) for inner in value) + "]"
    if value is None:
        return "~"
    return str(value)
