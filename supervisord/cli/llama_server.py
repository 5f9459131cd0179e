"""`llm-supervisord-llama-server`: llama.cpp's own HTTP server, from a wheel, with llama-server's flags.

For a machine without a `llama-server` yet. The server is the engine's: same endpoints, same JSON, same log lines.
"""

import importlib.metadata
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from supervisord.cli.embedded_model import (
    EMBEDDED,
    STOP_SEQUENCES,
    EmbeddedModelError,
    chat_template,
    ensure_model,
)
from supervisord.cli.llama_flags import CommandLine, FlagError, Show, parse, usage
from supervisord.cli.llama_values import Member, Value

_ENGINE = "xllamacpp"


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Serve until SIGTERM or SIGINT, then end with status 0 at once: drain in front of it, as with llama-server.

    While the model loads, both signals kill. Status 1: a wrong flag, no engine, no model, the address is taken.
    """
    # Python would turn SIGINT into an exception that the engine's constructor never lets through.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        line = parse(sys.argv[1:] if argv is None else argv)
        _show(line.show)
        model, params = _resolve(line)
    except (FlagError, EmbeddedModelError) as error:
        _fail(str(error))
    _serve(model, params)


def _fail(message: str) -> NoReturn:
    _say(f"error: {message}")
    raise SystemExit(1)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")  # print() writes the end apart: a thread of the engine prints in between
    sys.stderr.flush()


def _show(what: Show) -> None:
    match what:
        case Show.NOTHING:
            return
        case Show.HELP:
            print(usage())
        case Show.VERSION:
            print(f"version: llm-supervisord {_version('llm-supervisord')}, llama.cpp of {_ENGINE} {_version(_ENGINE)}")
    raise SystemExit(0)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _resolve(line: CommandLine) -> tuple[str, Mapping[str, Value]]:
    """The model's path; with the bundled model also what suits it, unless the command line says otherwise."""
    if line.model != EMBEDDED:
        return line.model, line.params
    suited: dict[str, Value] = {"model_alias": (EMBEDDED,)}
    if "chat_template" not in line.params:
        suited |= {"chat_template": chat_template(), "antiprompt": STOP_SEQUENCES}
    return str(ensure_model()), {**suited, **line.params}


def _serve(model: str, params: Mapping[str, Value]) -> NoReturn:
    engine = _load_engine()
    settings = engine.CommonParams()
    settings.model.path = model
    settings.n_parallel = 1  # llama-server's own default is four
    settings.cors_origins = ""  # its default mirrors any Origin: every web page could read answers from this port
    for target, value in params.items():
        _assign(engine, settings, target, value)
    try:
        server = engine.Server(settings)  # returns once the model is loaded; /health says 503 meanwhile
    except RuntimeError:
        _fail(_why_not(model, settings.hostnames[0], settings.port))
    _wait_for_signal()
    _say(f"stopping {server.listening_address}")
    os._exit(0)  # taking the engine down in order waits for its running streams, without a bound (seen)


def _wait_for_signal() -> None:
    """Wait for SIGTERM or SIGINT.

    Through a pipe: a signal that comes between the last bytecode and the system call of `signal.pause()` is noted,
    and the call then waits for the next one (seen).
    """
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    os.read(readable, 1)


def _why_not(model: str, host: str, port: int) -> str:
    """The engine only says that it failed; its own lines on stderr have the details."""
    problem = _file_problem(model) or _address_problem(host, port)
    return problem or f"failed to load model '{model}'; the lines above say why"


def _file_problem(model: str) -> str:
    try:
        with Path(model).open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        return f"cannot read the model '{model}': {error.strerror}"
    return "" if magic == b"GGUF" else f"the model '{model}' is no GGUF file"


def _address_problem(host: str, port: int) -> str:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return f"cannot listen on {host}:{port}: {error.strerror}"
    return ""


def _load_engine() -> ModuleType:
    try:
        import xllamacpp  # noqa: PLC0415 - 34 MB of engine, loaded once the command line is known to be right
    except ImportError as error:
        _fail(f"the embedded engine cannot be loaded ({error}); run: pip install 'llm-supervisord[embedded]'")
    module: ModuleType = xllamacpp
    return module


def _assign(engine: ModuleType, settings: Any, target: str, value: Value) -> None:
    *path, attribute = target.split(".")
    for name in path:
        settings = getattr(settings, name)
    setattr(settings, attribute, _native(engine, getattr(settings, attribute), value))


def _native(engine: ModuleType, current: object, value: Value) -> object:
    """`value` in the shape of the attribute's `current` value."""
    match value:
        case Member():
            return engine.__dict__[value.enumeration][value.name]
        case tuple() if isinstance(current, set):
            return set(value)
        case tuple() if current and isinstance(current, list) and isinstance(current[0], int):
            # One amount for each device the engine may find; the last one given stands for the rest.
            return [*value, *[value[-1]] * (len(current) - len(value))]
        case tuple():
            return list(value)
        case _:
            return value


if __name__ == "__main__":
    main()
