"""What every command understands: where the daemon is, how long to wait for it, and whether to use colours."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from supervisord.cli.supctl.client import Control
from supervisord.cli.supctl.screen import Screen, detect
from supervisord.cli.supctl.sockets import places

ANSWER_TIMEOUT_S = 5.0

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(slots=True)
class Session:
    """The common options of one call; a later mention wins: `supctl --color status --no-color`."""

    socket: str | None = None
    answer_timeout: float = ANSWER_TIMEOUT_S
    colour: bool | None = None

    def control(self) -> Control:
        return Control(places(self.socket, os.environ), self.answer_timeout)

    def screen(self) -> Screen:
        return detect(sys.stdout, colour=self.colour)


session = click.make_pass_decorator(Session, ensure=True)


def _keep(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is not None and parameter.name is not None:
        setattr(context.ensure_object(Session), parameter.name, value)


def common_options(function: _Function) -> _Function:
    for option in (
        click.option(
            "--color/--no-color",
            "colour",
            default=None,
            expose_value=False,
            callback=_keep,
            help="Use colours, or none. Default: on a terminal, unless NO_COLOR is set.",
        ),
        click.option(
            "--answer-timeout",
            metavar="SECONDS",
            type=click.FloatRange(min=0, min_open=True, max=3600),
            default=None,
            expose_value=False,
            callback=_keep,
            help=f"How long to wait for an answer of the daemon. Default: {ANSWER_TIMEOUT_S:g}.",
        ),
        click.option(
            "--socket",
            metavar="PATH",
            default=None,
            expose_value=False,
            callback=_keep,
            help="The control socket. Default: $LLM_SUPERVISORD_SOCKET, or where the daemon makes it.",
        ),
    ):
        function = option(function)
    return function


json_option = click.option("--json", "as_json", is_flag=True, help="Print the daemon's JSON as it is.")


def _read_metadata(context: click.Context, parameter: click.Parameter, value: Sequence[str]) -> dict[str, str]:
    del context, parameter
    pairs = [each.partition("=") for each in value]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise click.BadParameter(f'"{name}" is not of the form NAME=TEXT')
    twice = [name for name, times in Counter(name for name, _, _ in pairs).items() if times > 1]
    if twice:
        raise click.BadParameter(f'"{twice[0]}" is given twice')
    return {name: text for name, _, text in pairs}


metadata_option = click.option(
    "--meta",
    "metadata",
    metavar="NAME=TEXT",
    multiple=True,
    callback=_read_metadata,
    help="A note that is kept with it; may be given again.",
)


def limit_option(limit: int, most: int) -> Callable[[_Function], _Function]:
    """`--limit`, up to `most`."""
    return click.option(
        "--limit",
        metavar="N",
        type=click.IntRange(1, most),
        default=limit,
        help=f"At most so many. Default: {limit}.",
    )
