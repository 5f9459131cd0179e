import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.supctl import documents
from tests.cli.supctl.peer import Peer, daemon
from tests.cli.supctl.program import Supctl

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def socket_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="supctl-") as folder:  # tmp_path can be longer than a socket's 107 bytes
        yield Path(folder) / "control.sock"


@pytest.fixture
def supctl(socket_path: Path) -> Supctl:
    return Supctl(socket_path)


@pytest.fixture
def peer(socket_path: Path) -> Iterator[Peer]:
    with daemon(socket_path) as peer:
        peer.answers = {
            "/v1/status": documents.STATUS,
            "/v1/version": documents.VERSION,
            "/v1/models": documents.MODELS,
        }
        yield peer


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare with a file of what was seen to be good. SUPCTL_WRITE_GOLDEN=1 writes it anew, to be read over."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if os.environ.get("SUPCTL_WRITE_GOLDEN"):
            path.write_text(text)
        assert text == path.read_text()

    return check
