"""`supctl submit`."""

import json
from collections.abc import Mapping
from typing import BinaryIO, NoReturn

import click

from supervisord.cli.supctl.commands.job import ending, print_output
from supervisord.cli.supctl.failure import Failure
from supervisord.cli.supctl.job_wait import exit_status, until_over
from supervisord.cli.supctl.options import Session, common_options, json_option, metadata_option, session
from supervisord.cli.supctl.screen import note, show, show_bytes

ENDPOINT = "/v1/chat/completions"
LONGEST_BODY = 64 * 1024 * 1024  # bytes; the daemon's own limit


def _read_key(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    del context, parameter
    if value is not None and not (value.isascii() and value.isprintable()):
        raise click.BadParameter("it may have printable ASCII characters only")
    return value


@click.command()
@click.argument("file", metavar="FILE", type=click.File("rb"))
@click.option("--endpoint", metavar="PATH", default=ENDPOINT, help=f"What the body is for. Default: {ENDPOINT}.")
@click.option("--priority", type=click.Choice(("high", "normal", "batch")), help="Default: normal.")
@click.option(
    "--deadline", metavar="SECONDS", type=click.FloatRange(min=0, min_open=True), help="Not done by then, it fails."
)
@click.option("--key", metavar="TEXT", callback=_read_key, help="Submitted again with it, it is the same job.")
@click.option("--validate", is_flag=True, help="Check the answer against the JSON Schema in the body.")
@click.option(
    "--retries", metavar="N", type=click.IntRange(0, 10), help="How often to ask again where it does not fit."
)
@metadata_option
@click.option("-w", "--wait", is_flag=True, help="Wait for the answer, and print it.")
@json_option
@common_options
@session
def submit(
    session: Session,
    *,
    file: BinaryIO,
    endpoint: str,
    priority: str | None,
    deadline: float | None,
    key: str | None,
    validate: bool,
    retries: int | None,
    metadata: Mapping[str, str],
    wait: bool,
    as_json: bool,
) -> None:
    """Submit a request as a job; FILE is its JSON body, - the input."""
    document = {
        "endpoint": endpoint,
        "priority": priority,
        "deadline": deadline,
        "metadata": dict(metadata),
        "validate_output": _validation(retries) if validate else None,
    }
    body = _body(file)
    control = session.control()
    headers = {} if key is None else {"idempotency-key": key}
    answer = control.send("/v1/jobs", _with_body(document, body), headers=headers)
    job = answer.doc.text("id")
    if not wait:
        show_bytes(answer.body) if as_json else show([job])
        return
    ended = until_over(control, job, None)
    if as_json:
        show_bytes(ended.body)
    elif not print_output(control, ended.doc) or ended.doc.text("status") != "done":
        note(ending(ended.doc))
    raise click.exceptions.Exit(exit_status(ended.doc))


def _body(file: BinaryIO) -> bytes:
    """As it is, in UTF-8. Raises Failure for what is no JSON object."""
    raw = file.read(LONGEST_BODY + 1)
    if len(raw) > LONGEST_BODY:
        raise Failure(f"the body is longer than {LONGEST_BODY // 2**20} MiB")
    try:
        text = raw.decode(json.detect_encoding(raw))
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Failure(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Failure("the body is not a JSON object")
    return text.encode()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _with_body(document: Mapping[str, object], body: bytes) -> bytes:
    """The body stays as it was written: its figures, and the order and number of its members."""
    return json.dumps(document).encode()[:-1] + b', "body": ' + body + b"}"


def _validation(retries: int | None) -> object:
    return True if retries is None else {"retries": retries}
