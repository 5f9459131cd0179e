"""The problems of a configuration text, as the tests of the configuration compare them."""

import pytest

from supervisord.config.parse import parse
from supervisord.config.places import Surroundings
from supervisord.config.problem import InvalidConfigurationError

AROUND = Surroundings({"KEY": "sk-secret"}, "/home/ada", root=False, folder="/etc/llm-supervisord")


def problems(text: str | bytes, around: Surroundings = AROUND) -> list[tuple[str, str, int]]:
    """Path, message and line of each problem of a text that has some."""
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(InvalidConfigurationError) as caught:
        parse(data, file="config.yaml", around=around)
    return [(problem.where, problem.message, problem.line) for problem in caught.value.problems]


def backend(line: str) -> str:
    """A file with one backend, whose fourth line is `line`."""
    return f"backends:\n  a:\n    model: m.gguf\n    {line}\n"
