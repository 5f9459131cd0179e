"""`llm-supervisord --quarantine`."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from supervisord.adapters.store import STORE_FILE, quarantine
from supervisord.core.errors import StateFolderError


def set_aside(state_dir: str) -> int:
    """Move a damaged store out of the way, and say how to get back what can still be read.

    Returns 0, or 73 (EX_CANTCREAT) where nothing was moved.
    """
    path = Path(state_dir) / STORE_FILE
    try:
        folder = quarantine(path, datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    except StateFolderError as error:
        print(f"llm-supervisord: {error.message}", file=sys.stderr)
        return os.EX_CANTCREAT
    print(
        f"moved the damaged store to {folder}; the next start makes an empty one.\n"
        f"To go on with what can still be read of it instead, before that start:\n"
        f"  sqlite3 {folder / STORE_FILE} .recover | sqlite3 {path}\n"
        f"To go on with a copy made by `supctl backup`: put it at {path}."
    )
    return os.EX_OK
