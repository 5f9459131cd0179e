"""The runtimes there are."""

from collections.abc import Mapping

from supervisord.runtimes.base import Runtime, RuntimeKind
from supervisord.runtimes.command import Command
from supervisord.runtimes.llama_cpp import LlamaCpp
from supervisord.runtimes.remote import Remote
from supervisord.runtimes.vllm import Vllm

RUNTIMES: Mapping[RuntimeKind, Runtime] = {
    RuntimeKind.LLAMA_CPP: LlamaCpp(),
    RuntimeKind.VLLM: Vllm(),
    RuntimeKind.COMMAND: Command(),
    RuntimeKind.REMOTE: Remote(),
}
