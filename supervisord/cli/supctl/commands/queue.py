"""`supctl queue`, `supctl queue pause` and `supctl queue resume`."""

import click

from supervisord.cli.supctl.options import Session, common_options, json_option, session
from supervisord.cli.supctl.queue_view import queue as lines
from supervisord.cli.supctl.screen import show, show_bytes


@click.group(invoke_without_command=True)
@json_option
@common_options
@session
@click.pass_context
def queue(context: click.Context, session: Session, *, as_json: bool) -> None:
    """Show what waits, for what, and how long still."""
    if context.invoked_subcommand is not None:
        return
    answer = session.control().get("/v1/queue")
    if as_json:
        show_bytes(answer.body)
    else:
        show(lines(answer.doc, session.screen()))


@queue.command("pause")
@click.option("--why", metavar="TEXT", default="", help="What clients and status are told.")
@common_options
@session
def pause(session: Session, *, why: str) -> None:
    """Begin no job any more; what runs goes on, what comes waits."""
    show([session.control().post("/v1/queue/pause", {"why": why}).doc.text("message")])


@queue.command("resume")
@common_options
@session
def resume(session: Session) -> None:
    """Begin jobs again."""
    show([session.control().post("/v1/queue/resume", {}).doc.text("message")])
