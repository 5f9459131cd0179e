"""Every kind of server has a description, and the right one."""

from supervisord.runtimes.base import Runtime, RuntimeKind
from supervisord.runtimes.registry import RUNTIMES


def test_every_kind_is_there_under_its_own_name() -> None:
    assert set(RUNTIMES) == set(RuntimeKind)
    for kind, runtime in RUNTIMES.items():
        assert runtime.kind is kind


def test_only_what_has_a_process_is_started_by_a_program() -> None:
    def started(runtime: Runtime) -> bool:
        return bool(runtime.program) or runtime.asks_help or bool(runtime.ladder)

    assert not any(started(runtime) for runtime in RUNTIMES.values() if not runtime.has_process)
    assert [kind for kind, runtime in RUNTIMES.items() if not runtime.has_process] == [RuntimeKind.REMOTE]


def test_paths_begin_with_a_slash() -> None:
    for runtime in RUNTIMES.values():
        assert all(path.startswith("/") for path in runtime.identity_paths)
        assert not runtime.counters_path or runtime.counters_path.startswith("/")
