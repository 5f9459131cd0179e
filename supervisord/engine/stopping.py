"""How a generation is ended: asked politely, killed, and waited for until its memory is measured free."""

import random

from supervisord.core import life
from supervisord.core.exits import AskedFor, CauseKind, ExitCause
from supervisord.engine import telling
from supervisord.engine.generation import Generation
from supervisord.engine.world import World
from supervisord.ports import ManagedProcess

RELEASE_LIMIT_S = 30.0  # for the driver to give memory back after the last process ended; seen: 0.3 to 5 s
RELEASE_POLL_S = 0.25

_ASKED_FOR = {
    CauseKind.HANG: AskedFor.HANG,
    CauseKind.LOAD_STALL: AskedFor.STALL,
    CauseKind.UNREACHABLE: AskedFor.NOTHING,  # a server elsewhere is asked nothing: it is only given up
}


def terminate(name: str, generation: Generation, cause: ExitCause | None, world: World) -> None:
    """The configured stop command, then the signal that everybody understands. `cause`: why it has to end."""
    process = generation.process
    if process is None:
        return
    generation.asked = AskedFor.STOP if cause is None else _ASKED_FOR.get(cause.kind, AskedFor.STOP)
    if cause is not None and cause.kind is CauseKind.UNREACHABLE:
        generation.unreachable = cause.summary
    if generation.stop:
        world.tasks.bounded(_run_stop(name, generation, process, world), f"stop {name} {generation.number}")
    else:
        process.terminate()


async def _run_stop(name: str, generation: Generation, process: ManagedProcess, world: World) -> None:
    env = generation.launched.env if generation.launched is not None else {}
    problem = await world.processes.run(generation.stop, env, generation.described.life.term_s)
    if problem:
        telling.stop_failed(world.journal, name, generation, problem)
    process.terminate()


async def released(generation: Generation, world: World) -> life.Released:
    """Freed is what has been measured as free; a driver that tells nothing is not waited for."""
    clock = world.clock
    pids = generation.pids
    gone_at = clock.monotonic()
    has_any = generation.pid is not None  # an address that is not ours holds nothing here
    while has_any and not world.released(pids, gone_at) and clock.monotonic() < gone_at + RELEASE_LIMIT_S:
        generation.note = "waits for its VRAM to be measured free"
        world.look_now()
        await clock.sleep(RELEASE_POLL_S)
    return life.Released(generation.number, random.random())  # noqa: S311 - jitter, not a secret
