"""`supctl version` and `supctl completion`."""

import importlib.metadata

import click
from click.shell_completion import get_completion_class

from supervisord.cli.supctl.figures import ABSENT
from supervisord.cli.supctl.options import Session, common_options, json_option, session
from supervisord.cli.supctl.screen import show, show_bytes

_FIELDS = (("python", "Python"), ("pid", "pid"), ("config", "config"), ("listen", "listen"))
_PLACES = (("state_dir", "state"), ("socket", "socket"))


def own_version() -> str:
    return importlib.metadata.version("llm-supervisord")


@click.command()
@json_option
@common_options
@session
def version(session: Session, *, as_json: bool) -> None:
    """Print the versions, and the files in use."""
    if not as_json:
        show([f"supctl           {own_version()}"])
    answer = session.control().get("/v1/version")
    if as_json:
        show_bytes(answer.body)
        return
    theirs = answer.doc.text("version")
    lines = [f"llm-supervisord  {theirs or ABSENT}"]
    for key, label in (*_FIELDS, *_PLACES):
        number = answer.doc.whole(key)
        text = answer.doc.text(key) if number is None else str(number)
        lines.append(f"  {label:<15}{text or ABSENT}")
    if theirs and theirs != own_version():
        lines.append("the versions differ: restart the daemon to run the installed one")
    show(lines)


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print the completion script of a shell."""
    found = get_completion_class(shell)
    if found is None:  # click knows these three since 8.0
        raise click.UsageError(f"no completion for {shell}")
    show([found(context.find_root().command, {}, "supctl", "_SUPCTL_COMPLETE").source().rstrip("\n")])
