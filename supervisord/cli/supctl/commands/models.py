"""`supctl models`."""

import click

from supervisord.cli.supctl.model_view import listing
from supervisord.cli.supctl.options import Session, common_options, json_option, session
from supervisord.cli.supctl.screen import show, show_bytes
from supervisord.cli.supctl.wire_models import Model


@click.command()
@json_option
@common_options
@session
def models(session: Session, *, as_json: bool) -> None:
    """List the models clients may ask for, and the backends behind each."""
    answer = session.control().get("/v1/models")
    if as_json:
        show_bytes(answer.body)
    else:
        show(listing([Model.read(each) for each in answer.doc.each("models")], session.screen()))
