"""The runtimes there are."""

from collections.abc import Mapping

from supervisord.runtimes.base import Runtime, RuntimeKind
from supervisord.runtimes.llama_cpp import LlamaCpp

RUNTIMES: Mapping[RuntimeKind, Runtime] = {RuntimeKind.LLAMA_CPP: LlamaCpp()}
