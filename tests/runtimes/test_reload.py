"""What a changed configuration means for each backend, and that no setting can be forgotten."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import pytest

from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.core.memory import GroupLimits
from supervisord.core.restart import RestartPolicy
from supervisord.core.state import LifePolicy
from supervisord.runtimes.base import (
    BackendSpec,
    CommandOptions,
    MemoryNeed,
    RemoteOptions,
    RuntimeKind,
    VllmOptions,
)
from supervisord.runtimes.reload import SETTINGS, Changes, Cost, ReloadReport, changes

A = BackendSpec("a", RuntimeKind.LLAMA_CPP, "/models/a.gguf", ("a", "alias"))
B = replace(A, name="b", models=("b",))
C = replace(A, name="c", models=("c",))

OTHER: Mapping[str, Any] = {  # for each setting a value that is not its default
    "runtime": RuntimeKind.COMMAND,
    "model": "/models/other.gguf",
    "models": ("other",),
    "upstream_model": "other",
    "binary": "/opt/llama-server",
    "host": "127.0.0.2",
    "port": 4711,
    "footprint.context": 4096,
    "footprint.cache_type": "q8_0",
    "footprint.gpu_layers": 7,
    "footprint.batch": 64,
    "footprint.gpu_utilization": 0.5,
    "footprint.sequences": 4,
    "rungs": (Rung(Shrink.CACHE_Q8),),
    "gpus": ("1",),
    "tensor_split": (3.0, 1.0),
    "threads": 4,
    "cpus": (0, 1),
    "numa_node": 1,
    "embeddings": True,
    "chat_template_file": "/t.jinja",
    "args": ("--mlock",),
    "env": {"A": "b"},
    "cwd": "/srv",
    "nice": 5,
    "oom_score_adj": 600,
    "life.slots": 3,
    "life.token_budget": 4096,
    "life.breaker": 3,
    "life.load_stall_s": 7.0,
    "life.probe_hang_s": 7.0,
    "life.progress_s": 7.0,
    "life.busy_s": 7.0,
    "life.first_token_s": 7.0,
    "life.drain_s": 7.0,
    "life.term_s": 7.0,
    "life.kill_s": 7.0,
    "life.rungs": 3,
    "life.climb_after_s": 7.0,
    "life.elsewhere": True,
    "life.restart": RestartPolicy(max_failures=9),
    "autostart": False,
    "ttl_s": 60.0,
    "priority": 3,
    "pinned": True,
    "memory": MemoryNeed(vram=1),
    "limits": GroupLimits(pids=64),
    "max_wait_s": 7.0,
    "min_residence_s": 7.0,
    "headroom": 1 << 30,
    "probe_interval_s": 7.0,
    "probe_timeout_s": 7.0,
    "canary_every_s": 60.0,
    "canary_token": True,
    "vllm": VllmOptions(enforce_eager=True),
    "command": CommandOptions(("serve",)),
    "remote": RemoteOptions("https://api.example.com/v1"),
}

HARMLESS = {
    "rungs", "life.climb_after_s", "life.token_budget", "life.breaker", "life.load_stall_s", "life.probe_hang_s",
    "life.progress_s",
    "life.drain_s", "life.term_s", "life.kill_s", "life.rungs", "life.restart", "autostart", "ttl_s", "priority",
    "pinned", "memory", "max_wait_s", "min_residence_s", "headroom", "probe_interval_s",
    "probe_timeout_s", "life.busy_s", "life.first_token_s", "canary_every_s", "canary_token",
}  # fmt: skip


def paths(of: type) -> list[str]:
    """Every setting there is: footprint and life one by one, as they mix what costs a restart with what does not."""
    split = {"footprint": Footprint, "life": LifePolicy}
    return [
        path
        for each in fields(of)
        if each.name != "name"
        for path in (
            [f"{each.name}.{below.name}" for below in fields(split[each.name])] if each.name in split else [each.name]
        )
    ]


def with_setting(spec: BackendSpec, path: str, value: object) -> BackendSpec:
    outer, _, inner = path.partition(".")
    if not inner:
        return replace(spec, **{outer: value})
    part = getattr(spec, outer)
    assert is_dataclass(part)
    assert not isinstance(part, type)
    return replace(spec, **{outer: replace(part, **{inner: value})})


class TestTable:
    def test_decides_on_every_setting(self):
        assert sorted(SETTINGS) == sorted(paths(BackendSpec))

    def test_a_field_of_a_later_version_would_be_missed(self):
        @dataclass(frozen=True)
        class Later(BackendSpec):
            novelty: int = 0

        assert set(paths(Later)) - set(SETTINGS) == {"novelty"}

    def test_of_this_test_is_complete(self):
        assert sorted(OTHER) == sorted(SETTINGS)

    @pytest.mark.parametrize("path", sorted(OTHER))
    def test_a_changed_setting_is_seen_and_named(self, path):
        made = changes([A, B], [with_setting(A, path, OTHER[path]), B])
        assert made.why == {"a": (SETTINGS[path].name,)}
        touched = made.adjusted if path in HARMLESS else made.changed
        assert touched == (with_setting(A, path, OTHER[path]),)
        assert made.unchanged == (B,)
        assert (made.added, made.removed) == ((), ())
        assert len(made.adjusted) + len(made.changed) == 1

    def test_costs_are_those_of_the_set_above(self):
        assert {path for path, setting in SETTINGS.items() if setting.cost is Cost.ADJUST} == HARMLESS


class TestNames:
    def test_an_alias_needs_no_restart_where_the_server_does_not_know_it(self):
        new = replace(A, models=("a", "gpt-4o"))
        assert changes([A], [new]).adjusted == (new,)

    def test_the_first_name_is_told_to_the_server(self):
        new = replace(A, models=("alias", "a"))
        assert changes([A], [new]).changed == (new,)

    def test_vllm_is_told_all_of_them(self):
        old = replace(A, runtime=RuntimeKind.VLLM)
        new = replace(old, models=("a", "gpt-4o"))
        assert changes([old], [new]).changed == (new,)


class TestChanges:
    def test_the_same_again_changes_nothing(self):
        made = changes([A, B], [A, replace(B)])
        assert made.unchanged == (A, B)
        assert ReloadReport.of(made).message == "nothing to apply"

    def test_order_means_nothing(self):
        assert changes([A, B, C], [C, A, B]) == Changes(unchanged=(C, A, B))

    def test_one_of_each(self):
        restarted, adjusted = replace(B, gpus=("1",), ttl_s=5.0), replace(C, ttl_s=5.0)
        new = replace(A, name="new")
        made = changes([A, B, C], [new, adjusted, restarted])
        assert (made.added, made.removed, made.changed, made.adjusted) == ((new,), (A,), (restarted,), (adjusted,))
        assert ReloadReport.of(made) == ReloadReport(
            ("new",), ("a",), ("b",), ("c",), (), why={"b": ("gpus", "ttl"), "c": ("ttl",)}
        )

    def test_from_and_to_nothing(self):
        assert changes([], [A]).added == (A,)
        assert changes([A], []).removed == (A,)


class TestMessage:
    def test_tells_everything_in_one_line(self):
        report = ReloadReport(
            ("new",), ("gone", "old"), ("b",), ("c",), ("d",), ("listen",), {"b": ("gpus", "ttl")}, ("queue",)
        )
        assert report.message == (
            "added new; removed gone, old; restarted b (gpus, ttl); adjusted c; applied queue; "
            "holds after a restart of the daemon: listen"
        )

    def test_only_what_has_to_wait(self):
        assert ReloadReport(kept=("listen",)).message == (
            "nothing to apply; holds after a restart of the daemon: listen"
        )

    def test_two_fields_with_one_name_are_told_once(self):
        new = replace(A, life=replace(A.life, token_budget=7))
        assert changes([A], [new]).why == {"a": ("token_budget",)}

    def test_secrets_are_not_told(self):
        old = replace(A, runtime=RuntimeKind.REMOTE, remote=RemoteOptions("https://x/v1", key="sk-old"))
        made = changes([old], [replace(old, remote=RemoteOptions("https://x/v1", key="sk-new"))])
        assert "sk-" not in ReloadReport.of(made).message
        assert len(made.changed) == 1
