"""The settings of the YAML file: names, kinds, defaults, descriptions. No model of these leaves this package."""

from typing import Annotated

from pydantic import Discriminator, Tag

from supervisord.config import fields
from supervisord.config.fields import BackendName, FilePath, ModelName, Text
from supervisord.config.fields_network import Address, HostName
from supervisord.config.schema_command import CommandSettings
from supervisord.config.schema_keys import KeyName, KeySettings
from supervisord.config.schema_llama_cpp import LlamaCppSettings
from supervisord.config.schema_memory import Memory
from supervisord.config.schema_models import ModelSettings, Routing
from supervisord.config.schema_remote import RemoteSettings
from supervisord.config.schema_vllm import VllmSettings
from supervisord.config.settings import Settings, section, setting
from supervisord.runtimes.base import RuntimeKind


def runtime_of(backend: object) -> str | None:
    """Which settings a backend is checked against: those of its runtime; None where that is none.

    What is no mapping is left to the check of any of them.
    """
    written = backend.get("runtime") if isinstance(backend, dict) else None
    if written is None:
        return RuntimeKind.LLAMA_CPP.value
    return str(written) if isinstance(written, str) and written in RUNTIMES else None


def runtime_meant(written: object) -> str | None:
    """The runtime that was most likely meant by one that is none."""
    return fields.nearest(written, list(RUNTIMES), _ALIKE) if isinstance(written, str) else None


def runtime_problem(written: object) -> str:
    """What to say of a runtime that is none."""
    return fields.choice_problem(written, list(RUNTIMES), "a runtime", _ALIKE)


_ALIKE = 0.7  # "ollama" is a server of its own, and 0.67 of llama.cpp
RUNTIMES = {kind.RUNTIME.value: kind for kind in (LlamaCppSettings, VllmSettings, CommandSettings, RemoteSettings)}
AnyBackend = LlamaCppSettings | VllmSettings | CommandSettings | RemoteSettings
_Backend = Annotated[
    Annotated[LlamaCppSettings, Tag(RuntimeKind.LLAMA_CPP.value)]
    | Annotated[VllmSettings, Tag(RuntimeKind.VLLM.value)]
    | Annotated[CommandSettings, Tag(RuntimeKind.COMMAND.value)]
    | Annotated[RemoteSettings, Tag(RuntimeKind.REMOTE.value)],
    Discriminator(runtime_of),
]


class Control(Settings):
    socket: FilePath | None = setting(
        None,
        "Path of the control socket. Default: control.sock in $RUNTIME_DIRECTORY; else in /run/llm-supervisord for "
        "root, in $XDG_RUNTIME_DIR/llm-supervisord for others, or in state_dir.",
    )
    group: Text | None = setting(None, "Group whose members may use supctl besides root and the daemon's own user.")


class Log(Settings):
    level: Annotated[str, *fields.one_of("debug", "info", "warning", "error", noun="a log level")] = setting(
        "info", "Least severity that is logged: debug, info, warning or error."
    )
    format: Annotated[str, *fields.one_of("auto", "console", "json", "logfmt", noun="a log format")] = setting(
        "auto", "console, json or logfmt; auto is console on a terminal and logfmt elsewhere."
    )
    dir: FilePath | None = setting(None, "Folder of the backends' own output. Default: logs in state_dir.")
    max_size: Annotated[int, *fields.size("64KiB", "10GiB")] = setting(
        "50MiB", "Size at which the log file of a backend is rotated."
    )
    keep: Annotated[int, *fields.whole(0, 100)] = setting(3, "Rotated log files kept for each backend.")


class LimitSettings(Settings):
    body: Annotated[int, *fields.size("1KiB", "1GiB")] = setting("64MiB", "Largest request body.")
    upload: Annotated[int, *fields.size("1KiB", "64GiB")] = setting("512MiB", "Largest file that a client uploads.")
    header_timeout: Annotated[float, *fields.duration("100ms", "10m")] = setting(
        "10s", "Time a client has to send the head of a request."
    )
    body_timeout: Annotated[float, *fields.duration("100ms", "1h")] = setting(
        "60s", "Time a client has to send the body of a request; of a file, each 64 KiB of it."
    )
    idle_timeout: Annotated[float, *fields.duration("1s", "1h")] = setting(
        "75s", "A kept connection without a request is closed after this."
    )
    connections: Annotated[int, *fields.whole(1, 65_536)] = setting(2000, "Connections open at the same time.")
    client_stall: Annotated[float, *fields.duration("1s", "1h")] = setting(
        "60s", "A client that takes nothing of its answer for this long is cut off, so that its slot is free."
    )


class Aging(Settings):
    normal: Annotated[float, *fields.duration("1s", "30d")] = setting(
        "5m", "A normal job goes before a high one that arrives this much later."
    )
    batch: Annotated[float, *fields.duration("1s", "30d")] = setting(
        "1h", "A batch job goes before a high one that arrives this much later."
    )


class Queue(Settings):
    limit: Annotated[int, *fields.whole(1, 1_000_000)] = setting(
        1000, "Requests that may wait; more are refused with 429 and Retry-After."
    )
    backlog: Annotated[int, *fields.whole(1, 10_000_000)] = setting(
        1_000_000, "Durable jobs that may wait, lines of batches too; more are refused with 429 and Retry-After."
    )
    timeout: Annotated[float, *fields.duration("100ms", "7d")] = setting(
        "10m", "A job that has not started by then fails, unless its client set its own deadline."
    )
    aging: Aging = section(Aging, "How waiting raises a job, so that nothing starves.")


class Store(Settings):
    prompts: Annotated[str, *fields.one_of("full", "metadata", "none", noun="a way to keep prompts")] = setting(
        "metadata",
        "What the record of a job keeps. full: request body and answer too; metadata: figures, never the text; "
        "none: not the client's name either. Of a durable job its request until it has ended, and its answer, always.",
    )
    retention: Annotated[float, *fields.duration("1h", "3660d")] = setting(
        "30d", "Records of finished jobs, ended batches and uploaded files are deleted after this."
    )
    answers: Annotated[float, *fields.duration("1h", "3660d")] = setting(
        "7d", "Answers of durable jobs, and the output of batches, are deleted this long after they ended."
    )
    max_size: Annotated[int, *fields.size("64MiB", "16TiB")] | None = setting(
        None, "With more than this the oldest of what has ended is deleted. Default: no limit."
    )


class Shutdown(Settings):
    drain: Annotated[float, *fields.duration("0s", "1h")] = setting(
        "60s", "Time the running jobs have to finish when the daemon stops. Keep it below TimeoutStopSec of the unit."
    )


class FileSettings(Settings):
    listen: Address = setting(
        "127.0.0.1:8411", "Address and port clients use, loopback unless there are keys; port 0 for a free one."
    )
    allowed_hosts: list[HostName] = setting([], "Names besides loopback that the Host header may have.")
    state_dir: FilePath | None = setting(
        None,
        "Folder of the records. Default: $STATE_DIRECTORY; else /var/lib/llm-supervisord for root, "
        "llm-supervisord in $XDG_STATE_HOME (~/.local/state) for others.",
    )
    control: Control = section(Control, "The socket supctl uses.")
    log: Log = section(Log, "The daemon's log, and the backends' output.")
    limits: LimitSettings = section(LimitSettings, "What one client may take.")
    queue: Queue = section(Queue, "Jobs that wait.")
    store: Store = section(Store, "Records of jobs.")
    memory: Memory = section(Memory, "When memory is short. Actions come before the kernel's.")
    shutdown: Shutdown = section(Shutdown, "How the daemon stops.")
    backends: dict[BackendName, _Backend] = setting({}, "The servers, by name. The name is a model name too.")
    models: dict[ModelName, ModelSettings] = setting({}, "More models, each served by one or several backends.")
    keys: dict[KeyName, KeySettings] = setting({}, "Who may use the address, by name. Default: whoever reaches it.")
    routing: Routing = section(Routing, "What becomes of names nobody knows.")
