"""One start of a backend: its process, what it told of itself, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisord.core.exits import AskedFor, Judgement
from supervisord.core.ladder import Footprint
from supervisord.core.memory import TreeUsage
from supervisord.core.record import Identity
from supervisord.ports import ManagedProcess, ProcessSpec
from supervisord.runtimes.base import Address, BackendSpec


@dataclass(slots=True)
class Generation:
    """Mutable, and owned by one `Backend`. Times are monotonic seconds."""

    number: int
    rung: int
    footprint: Footprint
    address: Address
    described: BackendSpec  # as it was configured when it was started: a reload may have come since
    rung_name: str = "as configured"
    rung_why: str = ""  # why it is not as large as configured
    process: ManagedProcess | None = None
    launched: ProcessSpec | None = None
    stop: tuple[str, ...] = ()  # run before it is asked to end by a signal
    asked: AskedFor = AskedFor.NOTHING
    was_ready: bool = False
    identity: Identity = field(default_factory=Identity)
    usage: TreeUsage | None = None
    names: dict[int, str] = field(default_factory=dict)  # of every process that was ever seen in its tree
    spawned: float = 0.0
    loaded_in: float | None = None  # seconds from its start until it was ready
    peak_vram: int | None = None
    peak_ram: int | None = None
    output_told: float = 0.0  # when output was last told as a sign of life
    last_bytes: float = 0.0  # when bytes of an answer last came from it
    slow_clients: int = 0  # attempts that wait for their client to read: the server may not send
    lines_judged: int = 0  # lines of its output that were looked at for signs of lacking memory
    oom_kills_before: int | None = None  # the kernel's counter when it was started
    note: str = ""  # what its loading waits for, for people
    unanswered: dict[int, int] = field(default_factory=dict)  # attempts whose answer has not begun: tokens of prompt
    diagnosis: Mapping[str, object] = field(default_factory=dict)  # what it did before it was killed for a hang; JSON
    unreachable: str = ""  # of a server that is run elsewhere: why it was given up
    status: int | None = None  # how its leader ended, as `subprocess` counts
    rules: tuple[Judgement, ...] = ()  # the verdict on that, rule by rule
    last_words: tuple[str, ...] = ()  # the end of its output when it ended

    @property
    def host(self) -> str:
        return self.address.host

    @property
    def port(self) -> int:
        return self.address.port

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid or None

    @property
    def pids(self) -> frozenset[int]:
        """Every process that is or was part of it, as far as it was seen."""
        return frozenset({*self.names, self.pid or 0})
