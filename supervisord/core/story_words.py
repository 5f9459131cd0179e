"""What stories of incidents are made of: for each kind and cause a headline, what it means, and what to do next.

`{backend}` stands for its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from supervisord.core.exits import CauseKind
from supervisord.core.incident import IncidentKind


@dataclass(frozen=True, slots=True)
class Words:
    """`headline`: one sentence. `meaning`: what that is, for somebody who never met it. `advice`: the best first."""

    headline: str
    meaning: str
    advice: tuple[str, ...]


# An unwanted end, by its cause: what holds for a failed start as well.
CAUSES: Mapping[CauseKind, Words] = {
    CauseKind.ASKED: Words(
        "{backend} ended as it was asked to.",
        "Somebody or the configuration wanted it stopped. Nothing is wrong with it.",
        ("Nothing, unless you did not want it: supctl events --backend {backend} tells who asked.",),
    ),
    CauseKind.KERNEL_OOM: Words(
        "{backend} was killed for lack of memory, by the kernel.",
        "The host, or the memory group of {backend}, was full, and Linux killed a process of it.",
        (
            "See what else held the RAM then: `samples` in supctl incidents show {id} --json.",
            "If only its own group was full, its limit is too low: raise it, or give it less to do.",
            "Give it less: a smaller `context`, fewer `slots`, a smaller model.",
            "Tell the daemon what it takes at its peak (`memory.ram`), so that it is not started beside too much.",
        ),
    ),
    CauseKind.GPU_OOM: Words(
        "{backend} ran out of GPU memory.",
        "The driver refused it memory. It may have said so long before it ended, and end in some other error.",
        (
            "If it came back smaller, you need do nothing: it tries its full size again after stable service.",
            (
                "To avoid it for good: a smaller `context`, `cache_type: q8_0` or fewer `slots` (llama.cpp), a lower "
                "`gpu_memory_utilization` or `max_num_seqs` (vLLM)."
            ),
            "If another program shares the card (a desktop, a game), raise `memory.vram.reserve`.",
        ),
    ),
    CauseKind.HOST_OOM: Words(
        "{backend} was refused RAM.",
        "An allocation of host memory failed, or systemd-oomd ended it under pressure.",
        (
            "See what else held the RAM then, and end what is not needed: supctl status shows the present.",
            "Give it less: a smaller `context`, fewer `slots`; for llama.cpp no `--mlock` or `--no-mmap` in `args`.",
            "If a limit was hit (ulimit -l, a container), raise that one.",
        ),
    ),
    CauseKind.DEVICE_LOST: Words(
        "{backend} lost its GPU.",
        "The GPU stopped answering its driver. Backends that use it wait until it is back; others go on.",
        (
            (
                "Ask the kernel what the driver said: journalctl -k | grep -i -E 'xid|nvrm|amdgpu'. Xid 79 is a card "
                "that fell off the bus."
            ),
            "Often it takes a restart of the machine. If it happens again: power supply, riser, temperature, driver.",
            "When nvidia-smi shows it again: supctl reset {backend}.",
        ),
    ),
    CauseKind.CONFIGURATION: Words(
        "{backend} cannot run as it is configured.",
        "A flag, its model, a library, its port or a key was refused. The same start would fail again.",
        (
            "Read the line above: it names the flag, the file or the port. The whole output: supctl logs {backend}.",
            (
                "Mend the configuration, then: supctl reload. If you mended the file or the library it names, then: "
                "supctl reset {backend}."
            ),
            "A model file that cannot be read was often cut off while downloading: compare its size, get it again.",
        ),
    ),
    CauseKind.HANG: Words(
        "{backend} hung and was killed.",
        "It had work and nothing moved: no token, no counter, no answer.",
        (
            (
                "Look at the diagnosis (`facts` in supctl incidents show {id} --json): where each thread stood "
                "tells whose fault it is."
            ),
            "If it was only slow (a long prompt on few cores), give it longer: `timeouts.progress`.",
            (
                "If it comes again with the same stack, it is a fault of the server: update it, and report it with "
                "supctl incidents export {id}."
            ),
        ),
    ),
    CauseKind.LOAD_STALL: Words(
        "{backend} stood still while loading, and was killed.",
        "It neither read its model, nor used the CPU or the GPU, nor printed anything.",
        (
            "Is the disk with the model, or the network it downloads over, there and quick enough?",
            "If it compiles or downloads in silence for long, give it longer: `timeouts.load_stall`.",
            "The last lines it wrote: supctl logs {backend}.",
        ),
    ),
    CauseKind.KILLED: Words(
        "{backend} was killed from outside.",
        "A signal ended it that did not come from the daemon; no sign was found that memory was the reason. earlyoom, "
        "which kills for memory too, says so in its own log only.",
        (
            "Who sent it? journalctl --since around that time; a container runtime, a script or a person with kill.",
            (
                "If systemd-oomd or earlyoom runs here, ask it: journalctl -u systemd-oomd -u earlyoom. If it was one "
                "of them: less memory for this backend, or a larger `memory.host.reserve`, so that the daemon is first."
            ),
        ),
    ),
    CauseKind.CRASH: Words(
        "{backend} crashed.",
        "It ended by itself with an error that points neither to memory nor to its configuration.",
        (
            "Read its last lines: supctl logs {backend}.",
            (
                "If it comes again, look for the line in the server's issues, try its newest version, and report it "
                "with supctl incidents export {id}."
            ),
            "If always the same request was in flight, that one brings it down: supctl why JOB.",
        ),
    ),
    CauseKind.EXITED: Words(
        "{backend} ended without being asked, with status 0.",
        "It says that all is well. Servers do so after an inner part of them died, or when a command is no server.",
        (
            "Read what it wrote before: supctl logs {backend}.",
            "With runtime `command`: the program must stay in the foreground (no --detach, no daemon mode).",
        ),
    ),
    CauseKind.UNREACHABLE: Words(
        "{backend} could not be reached.",
        "The server that somebody else runs did not answer as it should. It is asked again and again.",
        (
            "Is it up, and is its address right (`url`)? Ask it from this machine: curl URL/models.",
            "If it asks for a key, see that the variable in `key` is set for the daemon, then: supctl reload.",
            "While it is away, other backends of its models serve alone: supctl models.",
        ),
    ),
    CauseKind.EXHAUSTED: Words(
        "{backend} could not be started: the machine had nothing left to start it with.",
        "File descriptors, processes or memory were used up. {backend} is not to blame: it is tried again, ever less "
        "often, until there is room, and never parked for it.",
        (
            "Raise the limit that the line above names, in the unit (systemctl edit llm-supervisord), and restart it.",
            "See who uses them up: ls /proc/PID/fd | wc -l; systemctl status llm-supervisord shows `Tasks:`.",
            "Try at once, when there is room again: supctl reset {backend}.",
        ),
    ),
}

UNKNOWN = Words(
    "{backend} ended unexpectedly.",
    "The cause is not known.",
    ("Read what it wrote: supctl logs {backend}.", "Report it with supctl incidents export {id}."),
)

# What is not an end by itself, or is told apart from how it ended.
KINDS: Mapping[IncidentKind, Words] = {
    IncidentKind.HANG: CAUSES[CauseKind.HANG],
    IncidentKind.LOAD_STALL: CAUSES[CauseKind.LOAD_STALL],
    IncidentKind.SHRUNK: Words(
        "{backend} had to come back smaller, to free memory.",
        "Memory was critical, and nobody idle was left to go: it finished its work, and was started one rung lower.",
        (
            "If that is rare, you need do nothing: it tries its larger size again after stable service.",
            "See what grew: supctl status names every holder, foreign processes too.",
            (
                "To avoid it: a smaller `context` or fewer `slots` here, or a larger `memory.vram.reserve` or "
                "`memory.host.reserve`."
            ),
        ),
    ),
    IncidentKind.EVICTED: Words(
        "{backend} had to leave, to free memory.",
        "Memory was short, and of those who could go it was the least harm.",
        (
            "If it had no work, you need do nothing: the next request loads it again.",
            "To keep it in memory: `pinned: true`, or a higher `priority` than others have.",
        ),
    ),
    IncidentKind.REFUSED: Words(
        "{backend} could not be started.",
        "There was no process to begin with, or the daemon found that it could not work.",
        (
            "The reason above names what is missing. Mend it, then: supctl reload, or supctl reset {backend}.",
            "llm-supervisord --check FILE tells what of a configuration file is wrong before it is in force.",
        ),
    ),
    IncidentKind.UNKILLABLE: Words(
        "{backend} cannot be killed.",
        "A process of it survived SIGKILL: it is stuck inside the kernel, most often in the driver of the GPU or in a "
        "network file system. Its memory and its GPU are not given to others.",
        (
            "See where it is stuck: cat /proc/PID/stack as root, and journalctl -k for what the driver says.",
            "It can go by itself when the driver or the file system answers again; the daemon notices.",
            "If not, only a restart of the machine helps. Then: supctl reset {backend}.",
        ),
    ),
}

# One that had to come back smaller, and could not be any smaller.
GIVEN_UP = Words(
    "{backend} had to go, to free memory: it has no smaller size left.",
    "Memory was critical, and nobody idle was left to go: it finished its work, and stays away for a while.",
    (
        "See what grew: supctl status names every holder, foreign processes too.",
        "Once there is room: supctl reset {backend}. It is tried again by itself after a while, too.",
        "Give it sizes to shrink to: a longer `ladder`, or none of its own, so that it has its runtime's.",
        "To have others go first: a higher `priority`, or `pinned: true`.",
    ),
)

# What a rule of the verdict looks for.
RULES: Mapping[str, str] = {
    "asked": "an end that was asked for",
    "spawn": "a start that failed",
    "unreachable": "a server elsewhere that could not be reached",
    "kernel_oom": "a kill by the kernel for lack of memory",
    "systemd_oomd": "a kill by systemd-oomd",
    "gpu_oom": "GPU memory that was refused",
    "host_oom": "RAM that was refused",
    "device_lost": "a lost GPU",
    "configuration": "a mistake in its configuration",
    "hang": "a hang",
    "load_stall": "a load that stood still",
    "killed": "a kill from outside",
    "exited": "an unasked end with status 0",
    "crash": "a crash",
}

# Rules that need no words where they did not match: nobody wonders.
OBVIOUS = frozenset({"asked", "spawn", "unreachable"})
