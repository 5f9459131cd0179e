"""Lists of the daemon's that are long: their newest entries, and word of the others."""

from collections.abc import Callable, Sequence

from supervisord.cli.supctl.client import Answer
from supervisord.cli.supctl.screen import note, show, show_bytes


def show_newest(answer: Answer, lines: Callable[[], Sequence[str]], *, limit: int, as_json: bool) -> None:
    """Print a list as the daemon sent it, or `lines` of it; whether there are more is said beside them."""
    if as_json:
        show_bytes(answer.body)
        return
    show(lines())
    if answer.doc.flag("more"):
        note(f"there are older ones; these are the newest {limit} (--limit)")
