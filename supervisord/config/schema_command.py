"""The settings of a backend that is any other server of HTTP on this machine."""

from typing import Annotated

from supervisord.config import fields
from supervisord.config.fields import Text, Word
from supervisord.config.fields_network import HttpPath
from supervisord.config.schema_backend import LocalSettings, Slots, Threads
from supervisord.config.settings import Missing, Settings, required, section, setting
from supervisord.core.exits import CauseKind
from supervisord.runtimes.base import RuntimeKind

# What words of a log can prove; the other causes are measured.
SIGNATURE_KINDS = (CauseKind.GPU_OOM, CauseKind.HOST_OOM, CauseKind.DEVICE_LOST, CauseKind.CONFIGURATION)
_WRITE = "missing; write the words of the log line that prove it"


class CommandHealth(Settings):
    path: HttpPath = setting("/health", "Path that is asked whether the server is ready.")
    status: Annotated[int, *fields.whole(200, 599)] = setting(200, "Status of the answer that says it is.")


class SignatureSettings(Settings):
    kind: Annotated[
        str,
        *fields.one_of(*SIGNATURE_KINDS, noun="a cause"),
        Missing(f"missing; write {fields.listed(SIGNATURE_KINDS)}", SIGNATURE_KINDS[0].value),
    ] = required(f"Cause that the words prove: {', '.join(SIGNATURE_KINDS)}.")
    words: Annotated[Text, Missing(_WRITE, "missing")] = required(
        "Words in one line of the server's output, without regard to case."
    )
    unless: Text | None = setting(None, "A line with these words too proves nothing.")


class CommandSettings(LocalSettings):
    RUNTIME = RuntimeKind.COMMAND

    runtime: Annotated[str, *fields.one_of(RUNTIME, noun="this runtime")] = required(
        "Kind of server: llama.cpp, vllm, command or remote."
    )
    command: Annotated[list[Word], Missing('missing; write [PROGRAM, ARGUMENT, "${port}"]', ["missing", "${port}"])] = (
        required(
            "Program and arguments. In them, in stop and in env, ${port}, ${host}, ${model} and ${slots} are replaced."
        )
    )
    model: Text | None = setting(
        None, "What ${model} stands for: a path that begins with / . or ~, or a name that the server knows."
    )
    slots: Slots = setting(1, "Requests in flight at the same time.")
    threads: Threads | None = setting(None, "CPU threads (OMP_NUM_THREADS). Default: the runtime's choice.")
    health: CommandHealth = section(CommandHealth, "How to tell that it is ready.")
    stop: list[Word] = setting([], "Program and arguments that are run before SIGTERM, such as [docker, stop, NAME].")
    signatures: list[SignatureSettings] = setting([], "Words in its output that prove why it ended.")
