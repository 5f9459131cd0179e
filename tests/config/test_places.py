"""Where things are kept when the file does not say, and what relative paths mean."""

import pytest

from supervisord.config.model import Configuration
from supervisord.config.parse import parse
from supervisord.config.places import Surroundings, resolve

USER = Surroundings({}, "/home/ada", root=False, folder="/srv/conf")
ROOT = Surroundings({}, "/root", root=True, folder="/srv/conf")


def read(text: str, around: Surroundings = USER) -> Configuration:
    return parse(text.encode(), file="config.yaml", around=around)


@pytest.mark.parametrize(
    ("environment", "root", "state", "socket"),
    [
        ({}, True, "/var/lib/llm-supervisord", "/run/llm-supervisord/control.sock"),
        ({}, False, "/h/.local/state/llm-supervisord", "/h/.local/state/llm-supervisord/control.sock"),
        ({"XDG_STATE_HOME": "/s"}, False, "/s/llm-supervisord", "/s/llm-supervisord/control.sock"),
        (
            {"XDG_STATE_HOME": "s"},
            False,
            "/h/.local/state/llm-supervisord",
            "/h/.local/state/llm-supervisord/control.sock",
        ),
        ({"STATE_DIRECTORY": "/var/lib/x:/var/lib/y"}, True, "/var/lib/x", "/run/llm-supervisord/control.sock"),
        ({"STATE_DIRECTORY": "/var/lib/x"}, False, "/var/lib/x", "/var/lib/x/control.sock"),
        (
            {"XDG_RUNTIME_DIR": "/run/user/7"},
            False,
            "/h/.local/state/llm-supervisord",
            "/run/user/7/llm-supervisord/control.sock",
        ),
        (
            {"RUNTIME_DIRECTORY": "/run/x:/run/y", "STATE_DIRECTORY": "/var/lib/x", "XDG_RUNTIME_DIR": "/run/user/7"},
            False,
            "/var/lib/x",
            "/run/x/control.sock",
        ),
    ],
)
def test_default_places(environment: dict[str, str], root: bool, state: str, socket: str) -> None:
    held = read("backends: {}", Surroundings(environment, "/h", root=root, folder="/f"))
    assert (held.state_dir, held.control_socket, held.log.dir) == (state, socket, f"{state}/logs")


def test_the_socket_and_the_log_follow_the_state_folder() -> None:
    held = read("state_dir: /s")
    assert (held.control_socket, held.log.dir) == ("/s/control.sock", "/s/logs")
    assert read("state_dir: /s", ROOT).control_socket == "/run/llm-supervisord/control.sock"


@pytest.mark.parametrize(("path", "absolute"), [("~", "/home/ada"), ("~/x", "/home/ada/x"), ("x", "/srv/conf/x")])
def test_paths(path: str, absolute: str) -> None:
    assert resolve(path, USER) == absolute
