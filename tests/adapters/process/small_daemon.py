"""A daemon small enough to be killed in tests: starts the programs it is given, and says what they say.

Usage: small_daemon.py STATE_DIR LOOP NAME=PROGRAM... (Python programs). Prints `NAME: line`, and `leftover: sentence`
for what an earlier life left, `groups: KIND: PROBLEM`. Ends when its stdin does.
"""

import asyncio
import sys
from pathlib import Path

import uvloop

from supervisord.adapters.process.host import LinuxProcessHost
from supervisord.ports import ProcessSpec


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Teller:
    def __init__(self, name: str) -> None:
        self._name = name

    def exited(self, status: int) -> None:
        say(f"{self._name}: exited {status}")

    def tree_gone(self) -> None:
        say(f"{self._name}: gone")

    def output(self, line: str) -> None:
        say(f"{self._name}: {line}")


async def main(state: Path, programs: dict[str, str]) -> None:
    host = LinuxProcessHost(state, state / "log", log_max_bytes=1 << 20, log_keep=1)
    say(f"groups: {host.groups().kind}: {host.groups().problem}")
    for sentence in await host.kill_leftovers():
        say(f"leftover: {sentence}")
    for name, program in programs.items():
        argv = (sys.executable, "-I", "-S", "-u", "-c", program)
        process = await host.spawn(ProcessSpec(name, 1, argv, {}), Teller(name))
        say(f"{name}: guardian={process.guardian.pid}")  # type: ignore[attr-defined]
    say("daemon: up")
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    while not ended.is_set():
        for process in list(host._children):
            await process.usage()  # as the sampler does
        await asyncio.sleep(0.02)
    await host.close()
    say("daemon: down")


if __name__ == "__main__":
    factory = uvloop.new_event_loop if sys.argv[2] == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(Path(sys.argv[1]), dict(argument.split("=", 1) for argument in sys.argv[3:])))
