"""What a new configuration changes: which backends come, go, start again, or go on as they are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from supervisord.runtimes.base import BackendSpec, RuntimeKind


class Cost(StrEnum):
    """What it takes until a changed setting holds."""

    RESTART = "restart"  # the server was told at its start
    ADJUST = "adjust"  # only the daemon acts on it: now, or at the next start for what concerns starts
    NAMES = "names"  # the server was told the first name (vLLM: all of them); the others are the daemon's own


@dataclass(frozen=True, slots=True)
class Setting:
    """`name`: what it is called in the configuration file."""

    cost: Cost
    name: str


def _restart(name: str) -> Setting:
    return Setting(Cost.RESTART, name)


def _adjust(name: str) -> Setting:
    return Setting(Cost.ADJUST, name)


# Every field of BackendSpec but its name; those of `footprint` and `life` one by one. A test holds it complete: a new
# field that nobody decided on would be a change that is silently not applied.
SETTINGS: Mapping[str, Setting] = {
    "runtime": _restart("runtime"),
    "model": _restart("model"),
    "models": Setting(Cost.NAMES, "aliases"),
    "upstream_model": _restart("upstream_model"),
    "binary": _restart("binary"),
    "host": _restart("host"),
    "port": _restart("port"),
    "footprint.context": _restart("context"),
    "footprint.cache_type": _restart("cache_type"),
    "footprint.gpu_layers": _restart("gpu_layers"),
    "footprint.batch": _restart("batch"),
    "footprint.gpu_utilization": _restart("gpu_memory_utilization"),
    "footprint.sequences": _restart("max_num_seqs"),
    "rungs": _adjust("ladder"),
    "gpus": _restart("gpus"),
    "tensor_split": _restart("tensor_split"),
    "threads": _restart("threads"),
    "cpus": _restart("cpus"),
    "numa_node": _restart("numa_node"),
    "embeddings": _restart("embeddings"),
    "chat_template_file": _restart("chat_template"),
    "args": _restart("args"),
    "env": _restart("env"),
    "cwd": _restart("cwd"),
    "nice": _restart("nice"),
    "oom_score_adj": _restart("oom_score_adj"),
    "life.slots": _restart("slots"),
    "life.token_budget": _adjust("token_budget"),
    "life.breaker": _adjust("breaker"),
    "life.load_stall_s": _adjust("timeouts.load_stall"),
    "life.probe_hang_s": _adjust("timeouts.probe"),
    "life.progress_s": _adjust("timeouts.progress"),
    "life.busy_s": _adjust("timeouts.busy"),
    "life.first_token_s": _adjust("timeouts.first_token"),
    "life.drain_s": _adjust("timeouts.drain"),
    "life.term_s": _adjust("timeouts.term"),
    "life.kill_s": _adjust("timeouts.kill"),
    "life.rungs": _adjust("ladder"),
    "life.climb_after_s": _adjust("restart.climb_after"),
    "life.restart": _adjust("restart"),
    "life.elsewhere": _restart("runtime"),
    "autostart": _adjust("autostart"),
    "ttl_s": _adjust("ttl"),
    "priority": _adjust("priority"),
    "pinned": _adjust("pinned"),
    "memory": _adjust("memory"),
    "limits": _restart("limits"),
    "max_wait_s": _adjust("max_wait"),
    "min_residence_s": _adjust("min_residence"),
    "headroom": _adjust("memory.vram.reserve"),
    "probe_interval_s": _adjust("probe_interval"),
    "probe_timeout_s": _adjust("probe_timeout"),
    "canary_every_s": _adjust("canary"),
    "canary_token": _adjust("canary"),
    "vllm": _restart("vllm's options"),
    "command": _restart("command"),
    "remote": _restart("url, key or health"),
}

_TELLS_ALL_NAMES = frozenset({RuntimeKind.VLLM})  # --served-model-name


@dataclass(frozen=True, slots=True)
class Changes:
    """The way from the backends of one configuration to those of another, in the order of the new one.

    `why`: the settings that differ, by the name of a changed or adjusted backend, as the file calls them.
    """

    added: tuple[BackendSpec, ...] = ()
    removed: tuple[BackendSpec, ...] = ()
    changed: tuple[BackendSpec, ...] = ()  # as they are to be: these need a restart
    adjusted: tuple[BackendSpec, ...] = ()  # as they are to be: these go on running
    unchanged: tuple[BackendSpec, ...] = ()
    why: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What a reload did, by names. `kept`: settings that hold only once the daemon itself is started again."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    why: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: tuple[str, ...] = ()  # settings besides backends that were changed and hold now

    @classmethod
    def of(cls, made: Changes) -> "ReloadReport":
        """The same, told by names."""
        groups = (made.added, made.removed, made.changed, made.adjusted, made.unchanged)
        added, removed, changed, adjusted, unchanged = (tuple(spec.name for spec in group) for group in groups)
        return cls(added, removed, changed, adjusted, unchanged, why=made.why)

    @property
    def message(self) -> str:
        """One line for people."""
        groups = (("added", self.added), ("removed", self.removed), ("restarted", self.changed),
                  ("adjusted", self.adjusted), ("applied", self.settings))  # fmt: skip
        parts = [f"{what} {', '.join(map(self._with_reason, names))}" for what, names in groups if names]
        if not parts:
            parts.append("nothing to apply")
        if self.kept:
            parts.append(f"holds after a restart of the daemon: {', '.join(self.kept)}")
        return "; ".join(parts)

    def _with_reason(self, name: str) -> str:
        return f"{name} ({', '.join(self.why[name])})" if name in self.why else name


def changes(old: Sequence[BackendSpec], new: Sequence[BackendSpec]) -> Changes:
    """What leads from `old` to `new`. Backends are paired by name; their order means nothing."""
    before = {spec.name: spec for spec in old}
    wanted = {spec.name for spec in new}
    differing = {spec.name: tuple(_differing(before[spec.name], spec)) for spec in new if spec.name in before}
    changed = {name for name, found in differing.items() if any(needs for _, needs in found)}
    return Changes(
        added=tuple(spec for spec in new if spec.name not in before),
        removed=tuple(spec for spec in old if spec.name not in wanted),
        changed=tuple(spec for spec in new if spec.name in changed),
        adjusted=tuple(spec for spec in new if differing.get(spec.name) and spec.name not in changed),
        unchanged=tuple(spec for spec in new if spec.name in before and not differing[spec.name]),
        why={name: tuple(dict.fromkeys(told for told, _ in found)) for name, found in differing.items() if found},
    )


def _differing(old: BackendSpec, new: BackendSpec) -> Iterator[tuple[str, bool]]:
    """The settings in which two specs of one backend differ, and whether each needs a restart."""
    for path, setting in SETTINGS.items():
        before, after = _at(old, path), _at(new, path)
        if before != after:
            yield setting.name, _needs_restart(setting, old, new)


def _needs_restart(setting: Setting, old: BackendSpec, new: BackendSpec) -> bool:
    if setting.cost is not Cost.NAMES:
        return setting.cost is Cost.RESTART
    return new.runtime in _TELLS_ALL_NAMES or old.models[:1] != new.models[:1]


def _at(spec: BackendSpec, path: str) -> object:
    value: object = spec
    for step in path.split("."):
        value = getattr(value, step)
    return value
