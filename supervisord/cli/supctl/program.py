"""The command line as a whole: its commands, and how it ends."""

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import NoReturn

import click

from supervisord.cli.supctl.failure import ExitStatus, Failure
from supervisord.cli.supctl.options import common_options
from supervisord.cli.supctl.screen import note

# Each command and the module it is in, in the order of the help. Loaded when called: `supctl status` is run by hand
# and by scripts all day, and starts a quarter faster without the others.
_COMMANDS: Mapping[str, str] = {
    "status": "status",
    "why": "why",
    "start": "backends",
    "stop": "backends",
    "restart": "backends",
    "reset": "backends",
    "load": "backends",
    "unload": "backends",
    "models": "models",
    "reload": "reload",
    "logs": "backends",
    "jobs": "jobs",
    "submit": "submit",
    "job": "job",
    "batch": "batch",
    "queue": "queue",
    "incidents": "incidents",
    "events": "events",
    "export": "export",
    "backup": "store",
    "vacuum": "store",
    "version": "about",
    "completion": "about",
}

_EPILOG = """\b
Exit statuses:
  0    done
  1    the daemon refused, or what was asked for failed
  2    wrong usage
  3    the daemon is not running
  4    permission denied
  5    no answer in time
  6    no such backend, model, job, batch or incident
  130  ended by Ctrl-C
"""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # type: ignore[explicit-override]  # Python 3.12 has it
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # type: ignore[explicit-override]  # as above
        del ctx
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = getattr(import_module(f"supervisord.cli.supctl.commands.{module}"), cmd_name)
        assert isinstance(command, click.Command)
        return command


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's shape
    del parameter
    if value and not context.resilient_parsing:
        about = import_module("supervisord.cli.supctl.commands.about")
        click.echo(f"supctl {about.own_version()}")
        context.exit()


@click.group(
    cls=_LazyGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version of supctl.",
)
@common_options
def supctl() -> None:
    """Look at and steer llm-supervisord over its control socket."""


def main() -> NoReturn:
    """Run `supctl`, and end the process with one of `ExitStatus`."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # both are TextIOWrapper in a process
    try:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        _forget_output()
        code = ExitStatus.OK
    except OSError as error:
        note(f"the output cannot be written: {error.strerror}")
        _forget_output()
        code = ExitStatus.FAILED
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    if "_SUPCTL_COMPLETE" in os.environ:
        supctl.main(arguments, prog_name="supctl")  # answers the shell, and exits
    try:
        # Not Command.main(): it takes a broken pipe for a failure.
        with supctl.make_context("supctl", arguments) as context:
            supctl.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Failure as failure:
        note(str(failure))
        return failure.status
    except (KeyboardInterrupt, click.Abort):
        return ExitStatus.INTERRUPTED
    return ExitStatus.OK


def _forget_output() -> None:
    """Nothing is written to stdout any more: not by the interpreter either, which would complain when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
