"""However the shares come and go: somebody always has room for one, and all together hold no more than a bound."""

from hypothesis import example, given
from hypothesis import strategies as st

from supervisord.engine.work.backlog_room import MOST_HELD, MOST_HELD_BYTES, Room

SHARES = [(priority, model) for priority in (0, 1, 2) for model in ("m", "n")]
LARGEST = 16 * 1024 * 1024

steps = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, LARGEST), st.integers(0, 300), st.booleans()), min_size=1, max_size=60
)


@given(steps)
@example([(which, 0, 2000, False) for which in range(6)])
def test_room(moves: list[tuple[int, int, int, bool]]) -> None:
    room = Room()
    held: dict[str, tuple[int, int]] = {}
    for move, (which, size, count, leaves) in enumerate(moves):
        share = SHARES[which]
        if leaves:
            for job_id in [name for name, (owner, _) in held.items() if owner == which][:count]:
                room.let_go(job_id)
                del held[job_id]
            room.let_go("never there")
        has_some = any(owner == which for owner, _ in held.values())
        assert has_some or room.jobs(share) >= 1, "one always goes"
        for number in range(count):
            if not room.jobs(share):
                break
            assert has_some is False or room.size(share) > 0
            held[name := f"{move}.{number}"] = which, size
            room.take(name, share, size)
            has_some = True
        assert len(room) == len(held)
        harmonic = sum(1 / n for n in range(1, len(SHARES) + 1))
        assert len(held) <= MOST_HELD * harmonic
        assert sum(size for _, size in held.values()) <= MOST_HELD_BYTES * harmonic + LARGEST * len(SHARES)
