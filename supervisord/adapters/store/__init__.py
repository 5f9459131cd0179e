"""The records in SQLite: one writer thread that commits in groups, and a few readers."""

from supervisord.adapters.store.sqlite import SqliteStore

__all__ = ["SqliteStore"]
