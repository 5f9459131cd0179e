"""Settings of one backend that contradict each other."""

from collections.abc import Iterator
from typing import assert_never
from urllib.parse import urlsplit

from supervisord.config.fields_network import stays_here
from supervisord.config.finding import Finding
from supervisord.config.problem import Path
from supervisord.config.schema import AnyBackend
from supervisord.config.schema_backend import LocalSettings
from supervisord.config.schema_command import CommandSettings
from supervisord.config.schema_llama_cpp import LlamaCppSettings
from supervisord.config.schema_remote import RemoteSettings
from supervisord.config.schema_vllm import VllmSettings


def of_backend(name: str, backend: AnyBackend, listen: tuple[str, int]) -> Iterator[Finding]:
    """What contradicts each other in one backend; `listen` is the daemon's own address."""
    at: Path = ("backends", name)
    if isinstance(backend, LocalSettings):
        yield from _gpus(at, backend)
    match backend:
        case LlamaCppSettings():
            yield from _tensor_split(at, backend)
        case VllmSettings():
            yield from _tensor_parallel(at, backend)
        case CommandSettings():
            yield from _command(at, backend)
        case RemoteSettings():
            yield from _remote(at, backend, listen)
        case _ as never:
            assert_never(never)


def _gpus(at: Path, backend: LocalSettings) -> Iterator[Finding]:
    for index, gpu in enumerate(backend.gpus):
        if gpu in backend.gpus[:index]:
            yield Finding(((*at, "gpus", index),), f"GPU {gpu} is listed twice; remove one")


def _tensor_split(at: Path, backend: LlamaCppSettings) -> Iterator[Finding]:
    shares, gpus = len(backend.tensor_split), len(backend.gpus)
    paths = ((*at, "tensor_split"), (*at, "gpus"))
    if shares and gpus and shares != gpus:
        counts = f"{shares} share{'s' if shares > 1 else ''} for {gpus} GPU{'s' if gpus > 1 else ''}"
        yield Finding(paths, f"{counts}; write one share for each of gpus")
    if shares and not any(backend.tensor_split):
        yield Finding(paths, "gives no GPU anything; write a share above 0, or gpu_layers: 0 for the CPU only")


def _tensor_parallel(at: Path, backend: VllmSettings) -> Iterator[Finding]:
    wanted, gpus = backend.tensor_parallel, len(backend.gpus)
    if gpus and wanted > gpus:
        message = f"needs {wanted} GPUs, and gpus lists {gpus}; list more, or take fewer"
        yield Finding(((*at, "tensor_parallel"), (*at, "gpus")), message)


def _command(at: Path, backend: CommandSettings) -> Iterator[Finding]:
    command = (*at, "command")
    if not backend.command or not backend.command[0].strip():
        yield Finding((command,), 'names no program; write [PROGRAM, ARGUMENT, "${port}"]')
        return
    texts = (*backend.command, *backend.env.values())
    if not backend.port and not any("${port}" in text for text in texts):
        message = "does not tell the server its port; put ${port} into command or env, or set port to the one it uses"
        yield Finding((command, (*at, "port"), (*at, "env")), message)
    if not backend.model and any("${model}" in text for text in (*texts, *backend.stop)):
        yield Finding(((*at, "model"), command, (*at, "env"), (*at, "stop")), "${model} is used, and model is not set")


def _remote(at: Path, backend: RemoteSettings, listen: tuple[str, int]) -> Iterator[Finding]:
    # What came out of the environment may be a secret: neither message shows the URL.
    url = urlsplit(backend.url)
    here = stays_here(url.hostname or "")
    if backend.key and url.scheme == "http" and not here:
        message = "http would send the key in clear; use https, or a tunnel with an end on 127.0.0.1"
        yield Finding(((*at, "url"), (*at, "key")), message)
    if here and url.port == listen[1]:
        message = "is this daemon's own address: requests would go in circles; give that of the other server"
        yield Finding(((*at, "url"), ("listen",)), message)
