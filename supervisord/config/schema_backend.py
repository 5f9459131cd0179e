"""The settings that backends of several runtimes have in common."""

from typing import Annotated, ClassVar

from supervisord.config import fields
from supervisord.config.fields import FilePath, ModelName, Truth, Variable, Word
from supervisord.config.fields_hardware import Cpus, Gpu
from supervisord.config.schema_life import Canary, Restart, Timeouts
from supervisord.config.settings import Settings, section, setting
from supervisord.core.ladder import SMALLEST_CONTEXT
from supervisord.runtimes.base import RuntimeKind

MOST_TOKENS = 2**24
Slots = Annotated[int, *fields.whole(1, 1024)]  # vLLM's own default for the largest GPUs
Context = Annotated[int, *fields.tokens(SMALLEST_CONTEXT, MOST_TOKENS)]
Threads = Annotated[int, *fields.whole(1, 1024)]


class BackendSettings(Settings):
    """What every runtime has. `runtime` is a field of each, with itself as the only value."""

    RUNTIME: ClassVar[RuntimeKind]

    aliases: list[ModelName] = setting([], "More names clients may ask for. Backends may share a name.")
    upstream_model: ModelName | None = setting(
        None, "What the server calls its model. Default: requests keep the name the client wrote."
    )
    slots: Slots = setting(1, "Requests in flight at the same time.")
    token_budget: Annotated[int, *fields.tokens(SMALLEST_CONTEXT, 2**30)] | None = setting(
        None, "Tokens in flight at the same time, prompts and answers. Default: the room the server says it has."
    )
    autostart: Truth = setting(default=True, description="Start with the daemon; false: with the first request.")
    ttl: Annotated[float, *fields.duration("1s", "30d")] | None = setting(
        None, "Unload after this long without work. Default: never."
    )
    priority: Annotated[int, *fields.whole(-1000, 1000)] = setting(0, "Higher is served first and evicted last.")
    restart: Restart = section(Restart, "What follows a failure.")
    timeouts: Timeouts = section(Timeouts, "How long each step may take.")
    probe_interval: Annotated[float, *fields.duration("100ms", "1m")] = setting(
        "1s", "Time between health probes; for remote 30s unless set: somebody else pays for them."
    )


class Need(Settings):
    vram: Annotated[int, *fields.size("0B", "16TiB")] | None = setting(
        None,
        "GPU memory it takes at its peak, over all of its GPUs; 0 for a server that uses none. "
        "Default: learned from earlier runs, else estimated.",
    )
    ram: Annotated[int, *fields.size("1MiB", "16TiB")] | None = setting(
        None, "RAM it takes at its peak. Default: learned from earlier runs, else estimated."
    )


class GroupLimit(Settings):
    memory: Annotated[int, *fields.size("64MiB", "16TiB")] | None = setting(
        None,
        "RAM at which the kernel takes back pages of files, then kills it. Needs control groups. Default: no limit.",
    )
    pids: Annotated[int, *fields.whole(16, 2**22)] | None = setting(
        None, "Processes and threads that it may have. Needs control groups. Default: no limit."
    )


class LocalSettings(BackendSettings):
    """What every runtime has that starts a process on this machine."""

    gpus: list[Gpu] = setting([], "GPUs it may use, by index or UUID. Default: all.")
    memory: Need = section(Need, "What it takes, where that is known better than by measuring.")
    limits: GroupLimit = section(GroupLimit, "What the kernel holds all of its processes to, together.")
    pinned: Truth = setting(default=False, description="Never asked to leave to make room for another backend.")
    max_wait: Annotated[float, *fields.duration("0s", "1h")] = setting(
        "30s", "Its jobs wait this long for busy backends to become idle; then one has to make room."
    )
    min_residence: Annotated[float, *fields.duration("0s", "1h")] = setting(
        "10s", "Once ready, it keeps its place for this long while it has work."
    )
    env: dict[Variable, Word] = setting({}, "More environment variables for the server.")
    cwd: FilePath | None = setting(None, "Working folder of the server. Default: the daemon's.")
    nice: Annotated[int, *fields.whole(-20, 19)] = setting(
        0, "CPU priority, also against other sessions where the kernel groups by them; below 0 needs privileges."
    )
    oom_score_adj: Annotated[int, *fields.whole(-1000, 1000)] = setting(
        500, "What the kernel kills first: children before the daemon and the desktop."
    )
    cpus: Cpus = setting([], "Processors it may run on. Default: all.")
    numa_node: Annotated[int, *fields.whole(0, 1023)] | None = setting(
        None, "Run on the processors of this NUMA node, with its memory preferred; cpus wins over its processors."
    )
    canary: Canary = section(Canary, "Whether it would still answer, found out before somebody needs it.")
    port: Annotated[int, *fields.whole(0, 65_535)] = setting(0, "Port of the server on 127.0.0.1; 0 for a free one.")
