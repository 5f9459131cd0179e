"""One start of a backend: its process, what it told of itself, and how it ended."""

from dataclasses import dataclass, field

from supervisord.core.exits import AskedFor
from supervisord.core.ladder import Footprint
from supervisord.core.memory import TreeUsage
from supervisord.core.record import Identity
from supervisord.ports import ManagedProcess


@dataclass(slots=True)
class Generation:
    """Mutable, and owned by one `Backend`. Times are monotonic seconds."""

    number: int
    rung: int
    footprint: Footprint
    host: str
    port: int
    process: ManagedProcess | None = None
    asked: AskedFor = AskedFor.NOTHING
    was_ready: bool = False
    identity: Identity = field(default_factory=Identity)
    usage: TreeUsage | None = None
    output_told: float = 0.0  # when output was last told as a sign of life
    last_bytes: float = 0.0  # when bytes of an answer last came from it
    slow_clients: int = 0  # attempts that wait for their client to read: the server may not send
    oom_kills_before: int | None = None  # the kernel's counter when it was started
    note: str = ""  # what its loading waits for, for people

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid
