"""The rules of a verdict that tell what was done to a process, of its configuration, and how it ended."""

from collections.abc import Sequence

from supervisord.core.evidence import SIGNALS, AskedFor, ExitEvidence
from supervisord.core.exit_finding import Finding, Known, host_room, how_it_ended, matched
from supervisord.core.memory import Pressure
from supervisord.core.signatures import CauseKind, killed_children, most_telling

# --- what was done to it ---------------------------------------------------------------------------------------------


def asked(known: Known) -> Finding:
    if known.found.asked is not AskedFor.STOP:
        return Finding("nobody had asked it to stop")
    return matched(CauseKind.ASKED, "stopped as asked", "it was asked to stop")


def spawn(known: Known) -> Finding:
    error, permanent = known.found.spawn_error, known.found.spawn_permanent
    if error is None:
        return Finding("it could be started")
    passing = CauseKind.EXHAUSTED if known.found.spawn_shortage else CauseKind.CRASH
    kind = CauseKind.CONFIGURATION if permanent else passing
    return matched(kind, error, f"it could not be started: {error}", permanent=permanent)


def unreachable(known: Known) -> Finding:
    """Of a server elsewhere nothing else can be known: its process, its log and its memory are not here."""
    said = known.found.unreachable
    if not said:
        return Finding("it has a process here")
    return matched(CauseKind.UNREACHABLE, said, said)


def configuration(known: Known) -> Finding:
    """Words about flags, models and ports count only before it ever served, and not where somebody killed it."""
    found = known.found
    if found.was_ready:
        return Finding("it had served already: its flags and its model were good")
    if found.status is None or known.deadly_signal:
        return Finding("it was killed before it could complain of its configuration")
    proof = known.proof(CauseKind.CONFIGURATION)
    if proof is not None:
        line = proof.line.strip()
        lasting, tail = not proof.signature.heals, _last_lines(found.log)
        return matched(CauseKind.CONFIGURATION, line, f"its log says: {line}", *tail, permanent=lasting)
    return _by_status(found)


_BAD_STATUS = {126: "the program cannot be executed", 127: "the program was not found"}  # sh(1)


def _by_status(found: ExitEvidence) -> Finding:
    why = "it uses an instruction that this CPU lacks" if found.signal == 4 else _BAD_STATUS.get(found.status or 0)
    if why is None:
        return Finding("no line of its log speaks of a flag, a model, a library or a port")
    told = f"{why}: ended by {how_it_ended(found)}"
    return matched(CauseKind.CONFIGURATION, told, told, *_last_lines(found.log), permanent=True)


# --- how it ended ----------------------------------------------------------------------------------------------------


def hang(known: Known) -> Finding:
    ours = _ended_by_us(known.found, AskedFor.HANG, CauseKind.HANG, "killed because it no longer answered")
    proof = known.proof(CauseKind.HANG)
    if ours.cause is not None or proof is None:
        return ours
    line = proof.line.strip()
    return matched(CauseKind.HANG, f"ended by its own watchdog: {line}", f"its log says: {line}", line)


def load_stall(known: Known) -> Finding:
    return _ended_by_us(known.found, AskedFor.STALL, CauseKind.LOAD_STALL, "killed because loading stood still")


def _ended_by_us(found: ExitEvidence, reason: AskedFor, kind: CauseKind, summary: str) -> Finding:
    if found.asked is not reason:
        return Finding("we did not end it for lack of progress" if kind is CauseKind.HANG else "its load went on")
    return matched(kind, summary, "we ended it for lack of progress", *_last_lines(found.log))


def killed(known: Known) -> Finding:
    found = known.found
    if found.asked is not AskedFor.NOTHING:
        return Finding("whoever killed it, we had set about it")
    signal = known.deadly_signal
    if signal is not None:
        how = how_it_ended(found)
        because = f"{SIGNALS[signal]}, {host_room(found)}{_perhaps_for_memory(found)}"
        return matched(CauseKind.KILLED, f"killed from outside by {how}", because, *_last_lines(found.log))
    gone = most_telling(killed_children(found.log))
    if gone is not None:
        line = gone.line.strip()
        return matched(CauseKind.KILLED, f"a process of it was killed: {line}", f"its log says: {line}", line)
    return Finding(f"it ended by {how_it_ended(found)}, and no line of its log tells that a process of it was killed")


def exited(known: Known) -> Finding:
    if known.found.status != 0:
        return Finding(f"it ended by {how_it_ended(known.found)}")
    summary = "it ended with status 0, unasked"
    return matched(CauseKind.EXITED, summary, "status 0", *_last_lines(known.found.log))


def crash(known: Known) -> Finding:
    """What is left where no other rule matches."""
    found = known.found
    proof = known.proof(CauseKind.CRASH)
    last = next((line.strip() for line in reversed(found.log) if line.strip()), "it printed nothing")
    said = proof.line.strip() if proof is not None else last
    hint = _HINTS.get(found.signal or 0, "")
    summary = f"ended by {how_it_ended(found)}: {said}"
    return matched(CauseKind.CRASH, summary, f"ended by {how_it_ended(found)}{hint}", *_last_lines(found.log))


_HINTS = {7: ": a mapped file became shorter or could not be read, or /dev/shm is full"}


def _perhaps_for_memory(found: ExitEvidence) -> str:
    """Who kills for memory besides the kernel, where none of them has left a mark: earlyoom never does."""
    pressure = found.host_pressure or Pressure.OK
    under = f", under {pressure.label} pressure" if pressure is not Pressure.OK else ""
    oomd = "" if found.systemd_oomd_named_us is False else "systemd-oomd or "
    unit = "" if found.systemd_oomd_named_us is False else " -u systemd-oomd"
    return f"{under}; if it was {oomd}earlyoom, for memory, the log says so: journalctl{unit} -u earlyoom"


def _last_lines(log: Sequence[str], count: int = 5) -> tuple[str, ...]:
    return tuple(line.strip() for line in log[-count:])
