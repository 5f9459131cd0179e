"""Where files are looked for and kept: the environment, the user, and the folder of the configuration file.

No pydantic and no YAML here: supctl reads this to find the control socket, and starts quickly.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

NAME = "llm-supervisord"
SYSTEM_CONFIG = f"/etc/{NAME}/config.yaml"
SYSTEM_STATE = f"/var/lib/{NAME}"
SYSTEM_RUN = f"/run/{NAME}"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the places depend on. `folder` is where relative paths start: that of the configuration file."""

    environment: Mapping[str, str]
    home: str
    root: bool
    folder: str

    @classmethod
    def of_process(cls, folder: str | None = None) -> Self:
        """Those of this process; without `folder`, relative paths start in the working folder."""
        home = os.environ.get("HOME") or "/"
        return cls(dict(os.environ), home, os.geteuid() == 0, folder or str(Path.cwd()))


def resolve(path: str, around: Surroundings) -> str:
    """`path` made absolute. Raises ValueError for `~name`."""
    if path == "~" or path.startswith("~/"):
        return str(Path(around.home) / path[2:])
    if path.startswith("~"):
        raise ValueError("only ~/ is expanded; write the other folder out")
    return str(Path(around.folder) / path)


def config_candidates(around: Surroundings) -> tuple[str, ...]:
    """The files that are read if they exist, the first one wins."""
    return str(_base("XDG_CONFIG_HOME", ".config", around) / NAME / "config.yaml"), SYSTEM_CONFIG


def state_dir(around: Surroundings) -> str:
    """The folder of the records, where the configuration names none. systemd may list several: the first is ours."""
    listed = around.environment.get("STATE_DIRECTORY", "").split(":")[0]
    if listed:
        return listed
    return SYSTEM_STATE if around.root else str(_base("XDG_STATE_HOME", ".local/state", around) / NAME)


def control_socket(around: Surroundings, state: str) -> str:
    """The control socket, where the configuration names none; `state` is the state folder."""
    listed = around.environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if listed:
        return f"{listed}/control.sock"
    if around.root:
        return f"{SYSTEM_RUN}/control.sock"
    runtime = around.environment.get("XDG_RUNTIME_DIR", "")
    return f"{runtime}/{NAME}/control.sock" if runtime.startswith("/") else f"{state}/control.sock"


def _base(variable: str, default: str, around: Surroundings) -> Path:
    """A base folder of the XDG specification, by which a relative one is to be ignored."""
    given = around.environment.get(variable, "")
    return Path(given) if given.startswith("/") else Path(around.home) / default
