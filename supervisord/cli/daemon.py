"""`llm-supervisord`: the daemon's command line."""

import os
import sys

import click

from supervisord.app.version import VERSION
from supervisord.cli import check as checking
from supervisord.cli import quarantine as quarantining
from supervisord.config import load
from supervisord.core.errors import ConfigurationError

EPILOG = (
    "Exit statuses: 0 stopped as asked, 2 wrong usage, 69 the address is in use, 70 a fault of the program, "
    "73 the state folder cannot be used, 78 the configuration is wrong."
)


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "config", type=click.Path(), help="Configuration file to run with.")
@click.option("--watch", is_flag=True, help="Reload the configuration file whenever it changes.")
@click.option("--check", "check", type=click.Path(), help="Check a configuration file, say all that is wrong, and end.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the configuration file, and end.")
@click.option("--quarantine", is_flag=True, help="Move a store that is damaged out of the way, and end.")
@click.version_option(VERSION, prog_name="llm-supervisord")
def command(*, config: str | None, watch: bool, check: str | None, schema: bool, quarantine: bool) -> None:
    """Run local LLM servers as one dependable service.

    Without --config: $LLM_SUPERVISORD_CONFIG, then the user's configuration folder, then
    /etc/llm-supervisord/config.yaml, then built-in defaults. SIGHUP reads the file again; what is unchanged in it goes
    on running. SIGTERM drains and stops; a second one does not wait.
    """
    if schema:
        sys.exit(checking.print_schema())
    if check is not None:
        sys.exit(checking.check(check))
    sys.exit(_run(config, watch=watch, quarantine=quarantine))


def _run(config: str | None, *, watch: bool, quarantine: bool) -> int:
    try:
        configuration = load.load(config)
    except ConfigurationError as error:
        print(f"llm-supervisord: {error.message}", file=sys.stderr)
        return os.EX_CONFIG
    if not configuration.source:
        print(f"llm-supervisord: {load.defaults_text()}", file=sys.stderr)
    if quarantine:
        return quarantining.set_aside(configuration.state_dir)
    from supervisord.app.daemon import run  # noqa: PLC0415 - --check and --schema need no event loop

    return run(configuration, watch=watch)


def main() -> None:
    """The console script."""
    command()
