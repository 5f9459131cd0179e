"""What becomes of the work that an earlier life of the daemon left unfinished."""

import sqlite3
from typing import Final

from supervisord.adapters.store.statements import SQL, ManyRows
from supervisord.adapters.store.transaction import transaction
from supervisord.core.terms import MOST_INTERRUPTIONS
from supervisord.ports import Recovery

_ENDED: Final = ManyRows("drop_requests", 1)


def recover(connection: sqlite3.Connection, now: float, *, keep_bodies: bool) -> tuple[Recovery, int]:
    """All of it in one commit, and the number of the life that begins. Raises sqlite3.Error."""
    with transaction(connection):
        life: int = connection.execute(SQL["next_life"], {"now": now}).fetchone()[0]
        abandoned = connection.execute(SQL["recover"], {"now": now}).rowcount
        values = {"now": now, "life": life, "most": MOST_INTERRUPTIONS}
        given_up = connection.execute(SQL["recover_given_up"], values).fetchall()
        if not keep_bodies:
            _ENDED.run(connection, given_up)
        requeued = connection.execute(SQL["recover_requeued"], {"life": life}).rowcount
        connection.execute(SQL["recover_files"])
        connection.execute(SQL["recover_parts"], {"now": now})
        total: int = connection.execute(SQL["count_jobs"]).fetchone()[0]
    return Recovery(abandoned=abandoned, requeued=requeued, given_up=len(given_up), jobs_total=total), life
