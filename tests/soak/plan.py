"""What a run of the soak is asked for, and the dice of each of those who act in it."""

import random
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KINDS = ("llama-a", "llama-b", "vllm", "command", "cloud")
REAL = "real"


@dataclass(frozen=True, slots=True)
class Plan:
    """`minutes` of load; `folder` keeps what the daemon left behind, None: a folder that is removed at the end."""

    minutes: float
    seed: int
    backends: tuple[str, ...] = KINDS
    clients: int = 8
    folder: Path | None = None

    @property
    def seconds(self) -> float:
        return self.minutes * 60

    def dice(self, who: str) -> random.Random:
        """The same ones in every run with this seed, whatever the others do."""
        return random.Random(f"{self.seed}/{who}")


def read(arguments: Sequence[str]) -> Plan:
    """Raises SystemExit for what is not understood, as argparse does."""
    parser = ArgumentParser(
        prog="scripts/soak",
        description="Runs the daemon with several backends under random load and random faults, and checks all the "
        "while that nothing is lost, left behind or exceeded. Ends with a table; status 1 if something was violated.",
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="of load (default: 30)")
    parser.add_argument(
        "--seed", type=int, help="of all that is random; it is printed (default: another one each time)"
    )
    parser.add_argument(
        "--backends", default=",".join(KINDS), metavar="A,B", help=f"some of {', '.join(KINDS)} (default: all of them)"
    )
    parser.add_argument("--real", action="store_true", help="the embedded llama.cpp and its model besides")
    parser.add_argument("--clients", type=int, default=8, help="who ask one thing after the other (default: 8)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="an empty folder for what the daemon writes")
    return _plan(parser, parser.parse_args(arguments))


def _plan(parser: ArgumentParser, asked: Namespace) -> Plan:
    backends = tuple(name for name in asked.backends.split(",") if name)
    unknown = [name for name in backends if name not in KINDS]
    if unknown or not backends:
        parser.error(f"--backends takes some of {', '.join(KINDS)}, not {asked.backends!r}")
    if asked.minutes <= 0 or asked.clients < 1:
        parser.error("--minutes and --clients must be more than 0")
    if asked.real:
        backends = (*backends, REAL)
    seed = random.SystemRandom().randrange(1_000_000) if asked.seed is None else asked.seed
    return Plan(asked.minutes, seed, backends, asked.clients, asked.keep)
