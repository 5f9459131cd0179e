"""Which llama-server to run: the one on PATH, else the embedded engine. Standard library only."""

import importlib.util
import shutil
import sys
from collections.abc import Callable

NO_LLAMA_SERVER = (
    "no llama-server on PATH and no embedded engine; install llama.cpp, name the program with `binary:`, "
    "or run: pip install 'llm-supervisord[embedded]'"
)


def find_llama_server(path_lookup: Callable[[str], str | None] = shutil.which) -> tuple[str, ...] | None:
    """What stands before the flags: `llama-server` on PATH, else `embedded_llama_server()`.

    None where there is neither; NO_LLAMA_SERVER says so in words.
    """
    found = path_lookup("llama-server")
    return (found,) if found is not None else embedded_llama_server()


def embedded_llama_server() -> tuple[str, ...] | None:
    """The embedded engine's command, which alone understands the model name `embedded`; None: not installed."""
    if importlib.util.find_spec("xllamacpp") is None:
        return None
    # -P: a folder called `supervisord` where the daemon was started must not be taken for the package.
    return (sys.executable, "-P", "-m", "supervisord.cli.llama_server")
