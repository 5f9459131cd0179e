"""The jobs of one flow, as far as they are known in memory."""

from dataclasses import dataclass, field

from supervisord.core.terms import Flow


@dataclass(slots=True)
class Line:
    """`waiting`: its jobs that do not run. `after`: those up to this id are in memory, or were; `more`: some behind it
    may wait.

    `anew`: it is read from its beginning, where jobs may be met that were in memory before: the store has to have all
    that became of them by then. While it is being read, `ended` collects the jobs that leave memory meanwhile, for it
    may show them as they were before, and `back_to` the lowest id that has to be looked at once more.
    """

    flow: Flow
    waiting: int = 0
    after: str = ""
    more: bool = False
    anew: bool = True
    held: set[str] = field(default_factory=set)
    ended: set[str] | None = None
    back_to: str = ""

    def rewind(self) -> None:
        """Read it from its beginning."""
        self.after, self.anew = "", True

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is in memory, and nothing may be in the store."""
        return not (self.held or self.more or self.ended is not None)


@dataclass(frozen=True, slots=True)
class FlowView:
    """`waiting`: its jobs that do not run. `held`: those of them, and of the running, that are in memory.

    `why`: what keeps it from running, in words; empty: nothing but its turn. `oldest`: the id of its first job that is
    in memory; empty: none is.
    """

    flow: Flow
    waiting: int
    held: int
    why: str
    oldest: str
