"""Paths as people write them -> absolute ones."""

from supervisord.config import places
from supervisord.config.finding import Finding
from supervisord.config.places import Surroundings
from supervisord.config.problem import Path


class Resolver:
    """Makes paths absolute; those that cannot be are empty, and noted in `findings`."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.findings: list[Finding] = []

    def path(self, written: str | None, at: Path) -> str:
        """The path in the setting at `at`; empty where there is none."""
        if written is None:
            return ""
        try:
            return places.resolve(written, self.around)
        except ValueError as error:
            self.findings.append(Finding((at,), str(error)))
            return ""

    def program(self, written: str, at: Path) -> str:
        """A program: without a slash it is looked for on PATH when the backend starts, or is `auto`."""
        return self.path(written, at) if "/" in written or written.startswith("~") else written

    def path_or_name(self, written: str | None, at: Path) -> str:
        """What begins as paths do is one; anything else is a name that a server knows."""
        return self.path(written, at) if written and written.startswith(("/", ".", "~")) else written or ""
