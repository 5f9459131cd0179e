"""A batch through deaths of everything: `scripts/batch_chaos` runs longer ones."""

from pathlib import Path
from random import Random

from tests.soak.batches import chaos, told_of

LINES, KILLS = 2000, 50


async def test_every_line_is_answered_once_through_fifty_kills(tmp_path: Path) -> None:
    """Rows 3 and 2 at batch scale. The seed is told: with it, the same kills come at the same lines again."""
    seed = Random().randrange(10**6)
    tally = await chaos(tmp_path, lines=LINES, kills=KILLS, seed=seed)

    assert not tally.wrong, "\n".join(told_of(tally, seed))
    assert tally.kills.total() == KILLS
    assert tally.committed, "no store was looked into: the dice killed no daemon"
