"""The requests of a batch of messages: all of them are looked into before the batch is accepted."""

import re
from collections.abc import Callable, Iterable

from supervisord.core.batch import MOST_MESSAGES
from supervisord.core.batch_input import Input, Line
from supervisord.core.errors import InvalidJsonError, InvalidRequestError
from supervisord.core.job import Submission
from supervisord.core.record import FileRecord
from supervisord.engine.batching.files import MESSAGES, Files
from supervisord.engine.batching.lines import Slices
from supervisord.engine.batching.output import encode
from supervisord.engine.members import members_of
from supervisord.ports import Clock

MESSAGES_ENDPOINT = "/v1/messages"
_UNCLAIMED_S = 3600.0  # the file is kept for so long where no batch comes to be that reads it
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)


async def written(
    files: Files,
    known: Callable[[Submission], None],
    requests: Iterable[tuple[str, bytes]],
    client: str,
    clock: Clock,
) -> tuple[FileRecord, int]:
    """Requests as a file in the form that every batch is made of, and how many they are.

    Raises InvalidRequestError for the first that is wrong: then there is no file.
    """
    wanted, slices, writing = Input(MESSAGES_ENDPOINT, client, MOST_MESSAGES, known), Slices(clock), files.begin(client)
    try:
        for number, (custom_id, params) in enumerate(requests):
            _check(wanted, number, custom_id, params)
            line = b'{"custom_id":%b,"method":"POST","url":"%b","body":%b}\n' % (
                encode(custom_id),
                MESSAGES_ENDPOINT.encode(),
                params.replace(b"\r", b" ").replace(b"\n", b" "),
            )
            await writing.write(line)
            await slices.rest()
        _require_some(wanted)
        return await writing.finish("requests.jsonl", MESSAGES, _UNCLAIMED_S), wanted.total
    except BaseException:
        files.give_up(writing)
        raise


def _check(wanted: Input, number: int, custom_id: str, params: bytes) -> None:
    where = f"requests.{number}"
    if not _CUSTOM_ID.fullmatch(custom_id):
        raise InvalidRequestError(
            f"{where}.custom_id must be 1 to 64 letters, digits, hyphens and underscores.", param=f"{where}.custom_id"
        )
    try:
        members = members_of(params)
    except InvalidJsonError as error:
        raise InvalidRequestError(f"{where}.params: {error.message}", param=f"{where}.params") from None
    line = Line(number + 1, custom_id, "POST", MESSAGES_ENDPOINT, params, members)
    if wanted.check(line) is None:
        wrong = wanted.errors[0]
        param = (wrong.param or "params").replace("body", "params", 1)
        raise InvalidRequestError(f"{where}: {wrong.message}", param=f"{where}.{param}")
    if wanted.is_full:
        raise InvalidRequestError(f'"requests" has more than {MOST_MESSAGES} requests.', param="requests")


def _require_some(wanted: Input) -> None:
    if not wanted.total:
        raise InvalidRequestError('"requests" must have at least one request.', param="requests")
