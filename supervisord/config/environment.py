"""`${env:NAME}` and `${env:NAME:-default}` in texts of the configuration file."""

import re
from collections.abc import Mapping

from supervisord.config.units import EnvironmentText

_REFERENCE = re.compile(r"\$\{env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_ANY = re.compile(r"\$?\$\{env:[^}]*\}?")


def substitute(text: str, environment: Mapping[str, str]) -> str:
    """`text` with its references replaced; `$${env:…}` stands for a literal `${env:…}`.

    A default is used when the variable is unset or empty, as in a shell. What came from the environment is returned
    as EnvironmentText. Raises ValueError, saying which variable is missing or what is malformed.
    """
    if "${env:" not in text:
        return text
    sources: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        written = match[0]
        if written.startswith("$$"):
            return written[1:]
        reference = _REFERENCE.fullmatch(written)
        if reference is None:
            raise ValueError("malformed reference; write ${env:NAME} or ${env:NAME:-default}")
        sources.append(f"${{env:{reference['name']}}}")
        return _looked_up(reference["name"], reference["default"], environment)

    result = _ANY.sub(replaced, text)
    if not sources:
        return result
    alone = _REFERENCE.fullmatch(text)
    whole = alone is not None and result == environment.get(alone["name"], "")
    return EnvironmentText(result, ", ".join(sources), whole=whole)


def _looked_up(name: str, default: str | None, environment: Mapping[str, str]) -> str:
    value = environment.get(name)
    if default is not None:
        return value or default
    if value is None:
        raise ValueError(f"environment variable {name} is not set; set it, or write ${{env:{name}:-default}}")
    return value
