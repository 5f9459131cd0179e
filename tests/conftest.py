"""Settings that all tests share."""

import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run, so that a red build is red again; HYPOTHESIS_PROFILE=search looks for new ones.
# Slow generation is no fault of the code under test: a loaded machine must not make a test red.
CALM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "database": None, "print_blob": True}
settings.register_profile("repeatable", derandomize=True, **CALM)
settings.register_profile("search", max_examples=2000, **CALM)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# A shell that runs this in the background ignores SIGINT, and every program that is started here would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# --- files that run beside one another -------------------------------------------------------------------------------

SLOW = ("e2e", "soak", "service", "scripts", "runtimes", "adapters")  # folders; what takes minutes is begun first


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Several processes share the files between them (pytest-xdist): none may be left with a slow one at the end."""
    here = Path(__file__).parent

    def rank(item: pytest.Item) -> tuple[bool, int]:
        folder = item.path.relative_to(here).parts[0]
        return item.get_closest_marker("alone") is None, SLOW.index(folder) if folder in SLOW else len(SLOW)

    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        items.sort(key=rank)


@contextmanager
def _held(name: str, how: int) -> Iterator[None]:
    """A lock between all runs of these tests on the machine, also those of other clones."""
    with Path(tempfile.gettempdir(), f"llm-supervisord-tests-{os.getuid()}-{name}").open("a") as file:
        fcntl.flock(file, how)
        yield


@pytest.fixture(scope="module", autouse=True)
def _machine(request: pytest.FixtureRequest) -> Iterator[None]:
    """What swaps or fills the memory has the machine to itself, and there is one real vLLM at a time."""
    marks = {mark.name for mark in request.node.iter_markers()}
    with _held("machine", fcntl.LOCK_EX if "alone" in marks else fcntl.LOCK_SH):
        if "vllm" not in marks:
            yield
            return
        with _held("vllm", fcntl.LOCK_EX):
            yield
