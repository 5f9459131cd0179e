"""version, completion, the help, and that the documentation tells all of it."""

import json
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from supervisord.cli.supctl.failure import ExitStatus
from supervisord.cli.supctl.program import supctl as program
from tests.cli.supctl import documents

OWN = version("llm-supervisord")
DOCUMENT = Path(__file__).parents[3] / "docs" / "supctl.md"


class TestVersion:
    def test_of_both(self, supctl, peer):
        ended = supctl("version")
        assert ended.status == 0
        assert ended.out.splitlines() == [
            f"supctl           {OWN}",
            "llm-supervisord  0.3.0",
            "  Python         3.11.7",
            "  pid            4711",
            "  config         /etc/llm-supervisord/config.yaml",
            "  listen         127.0.0.1:8411",
            "  state          /var/lib/llm-supervisord",
            "  socket         /run/llm-supervisord/control.sock",
            "the versions differ: restart the daemon to run the installed one",
        ]

    def test_same(self, supctl, peer):
        peer.answers["/v1/version"] = {**documents.VERSION, "version": OWN}
        assert "differ" not in supctl("version").out

    def test_own_is_told_without_a_daemon(self, supctl):
        ended = supctl("version")
        assert (ended.status, ended.out) == (3, f"supctl           {OWN}\n")

    def test_json(self, supctl, peer):
        assert supctl("version", "--json").out == json.dumps(documents.VERSION) + "\n"

    def test_option_needs_no_daemon(self, supctl):
        ended = supctl("--version")
        assert (ended.status, ended.out) == (0, f"supctl {OWN}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(supctl, shell):
    ended = supctl("completion", shell)
    assert ended.status == 0
    assert f"_SUPCTL_COMPLETE={shell}_complete" in ended.out


def test_completion_is_valid_bash(supctl):
    script = supctl("completion", "bash").out
    assert subprocess.run(["bash", "-n"], input=script.encode(), timeout=10, check=False).returncode == 0


def test_starts_without_what_it_does_not_need(supctl, peer):
    """The start is within its budget only without these (benchmarks/supctl_latency.py measures it)."""
    heavy = {"aiohttp", "http.client", "ssl", "email", "pydantic", "yaml", "rich", "msgspec", "asyncio", "psutil",
             "structlog", "importlib.metadata", "supervisord.cli.supctl.commands.jobs", "supervisord.config",
             "supervisord.ports"}  # fmt: skip
    ended = supctl("status", PYTHONPROFILEIMPORTTIME="1", COVERAGE_PROCESS_START=None, COVERAGE_PROCESS_CONFIG=None)
    loaded = {line.rpartition("|")[2].strip() for line in ended.err.splitlines()}
    assert "httptools" in loaded
    assert loaded & heavy == set()


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(program)
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                under = command.get_command(context, below)
                assert under is not None
                yield f"{name} {below}", under


def sections() -> dict[str, str]:
    """The document's sections on commands by the command's name."""
    parts = re.split(r"^### `supctl ([a-z ]+)[^`]*`$", DOCUMENT.read_text(), flags=re.MULTILINE)
    return {name.strip(): text for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def options(command: click.Command) -> set[str]:
    return {
        name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


class TestDocument:
    def test_has_a_section_for_each_command_and_no_other(self):
        assert set(sections()) == {name for name, _ in commands()}

    @pytest.mark.parametrize(
        ("name", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
    )
    def test_tells_every_option(self, name, command):
        common = options(program)
        told = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", sections()[name]))
        assert options(command) - common <= told
        assert told <= options(command) | common

    def test_tells_the_common_options(self):
        told = DOCUMENT.read_text()
        assert all(f"`{name}" in told for name in options(program))

    def test_tells_every_exit_status(self):
        rows = re.findall(r"^\| (\d+) \|", DOCUMENT.read_text(), flags=re.MULTILINE)
        assert [int(row) for row in rows] == [status.value for status in ExitStatus]

    def test_help_tells_every_exit_status(self, supctl):
        ended = supctl("--help")
        assert ended.status == 0
        rows = re.findall(r"^ +(\d+)  ", ended.out, flags=re.MULTILINE)
        assert [int(row) for row in rows] == [status.value for status in ExitStatus]
