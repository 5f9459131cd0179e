"""`supctl reload`."""

import click

from supervisord.cli.supctl.options import Session, common_options, json_option, session
from supervisord.cli.supctl.screen import note, show, show_bytes

WAIT_S = 300.0  # a backend that is changed may first finish its requests


@click.command()
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=1, max=86400),
    default=WAIT_S,
    help=f"How long to wait for it. Default: {WAIT_S:g}.",
)
@json_option
@common_options
@session
def reload(session: Session, *, timeout: float, as_json: bool) -> None:
    """Read the configuration file again; what is unchanged goes on running."""
    answer = session.control().post("/v1/reload", {}, wait=timeout)
    if as_json:
        show_bytes(answer.body)
        return
    doc = answer.doc
    show([doc.text("message") or "reloaded"])
    if doc.texts("changed") or doc.texts("added"):
        note("see what becomes of it: supctl status")
