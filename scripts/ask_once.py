# ruff: noqa: INP001 - a module beside scripts/quickstart_run.py
"""One question over HTTP, with nothing but the standard library; the answer is handed on as it comes."""

import http.client
import json
from collections.abc import Callable, Iterator

_ANSWER_S = 60.0  # without any byte: the question is short, and the backend is ready


class AskError(Exception):
    """There is no whole answer; the message says why."""


def ask(host: str, port: int, model: str, question: str, show: Callable[[str], None]) -> str:
    """Ask `model`, pass each piece of the answer to `show`, and return the id of the job. Raises AskError, OSError."""
    body = {
        "model": model, "stream": True, "temperature": 0, "max_tokens": 64,
        "messages": [{"role": "user", "content": question}],
    }  # fmt: skip
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_S)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise AskError(f"the daemon answered {response.status}: {response.read(10_000).decode()}")
        pieces = 0
        for pieces, text in enumerate(_texts(response), start=1):
            show(text.lstrip() if pieces == 1 else text)
        if not pieces:
            raise AskError("the answer was empty")
        return str(response.headers["X-Job-Id"])
    except http.client.HTTPException as error:
        raise AskError(f"the answer was cut off ({error!r})") from error
    finally:
        connection.close()


def _texts(response: http.client.HTTPResponse) -> Iterator[str]:
    """The pieces of text in a stream of chunks. Raises AskError: an error in the stream, or no proper end.

    Reads to the end of the response: leaving at [DONE] would close the connection under the daemon's last bytes.
    """
    whole = False
    for line in response:
        data = line.removeprefix(b"data: ").strip()
        if not line.startswith(b"data: "):
            continue
        if data == b"[DONE]":
            whole = True
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            raise AskError(chunk["error"]["message"])
        for choice in chunk["choices"]:
            if text := choice["delta"].get("content"):
                yield text
    if not whole:
        raise AskError("the answer ended without [DONE]")
