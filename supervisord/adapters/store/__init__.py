"""The records and all durable work in SQLite: one writer thread that commits in groups, and a few readers."""

from typing import Final

from supervisord.adapters.store.quarantine import quarantine
from supervisord.adapters.store.sqlite import SqliteStore

STORE_FILE: Final = "jobs.sqlite3"  # in the state folder

__all__ = ["STORE_FILE", "SqliteStore", "quarantine"]
