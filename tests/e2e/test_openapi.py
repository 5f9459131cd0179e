"""Whatever is sent to the paths of /openapi.json, it is answered, and never with a fault of the daemon."""

import asyncio
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fakes.daemon import Daemon, running, stubbed
from tests.fakes.json_values import ANYTHING, fitting

CHAT = "/v1/chat/completions"
BODY = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}
LINE = {"custom_id": "1", "method": "POST", "url": CHAT, "body": BODY}
TOKEN_HEADERS = {"Content-Type": "application/json"}
FORM_HEADERS = {"Content-Type": "multipart/form-data; boundary=x"}
FAULT = 500


class Served:
    """A daemon, its document, and things that are there to be asked for."""

    def __init__(self, address: str) -> None:
        host, _, port = address.partition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=20)
        _, self.document = self.ask("GET", "/openapi.json")
        self.named = self.document["components"]["schemas"]
        self.ids = self._made()
        self.requests = self._requests()

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        is_json = answer.getheader("content-type") == "application/json"
        return answer.status, json.loads(text) if is_json else text

    def _made(self) -> dict[str, list[str]]:
        job = json.dumps({"endpoint": CHAT, "body": BODY}).encode()
        jobs = [self.ask("POST", "/v1/jobs", job)[1]["id"] for _ in range(2)]
        self.ask("GET", f"/v1/jobs/{jobs[0]}?wait=20")
        form = f'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n{json.dumps(LINE)}\r\n--x--\r\n'  # noqa: E501 - one line on the wire
        file = self.ask("POST", "/v1/files", form.encode(), **FORM_HEADERS)[1]["id"]
        batch = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        background = {"model": "stub", "input": "hello", "background": True}
        return {
            "job_id": jobs,
            "file_id": [file],
            "batch_id": [self.ask("POST", "/v1/batches", json.dumps(batch).encode())[1]["id"]],
            "id": [self.ask("POST", "/v1/responses", json.dumps(background).encode())[1]["id"]],
            "model": ["stub"],
        }

    def _requests(self) -> st.SearchStrategy[tuple[str, str, bytes | None, dict[str, str]]]:
        """Method, target, body and headers of any operation of the document."""
        operations = [
            self._request(path, method, operation)
            for path, operations in self.document["paths"].items()
            for method, operation in operations.items()
        ]
        return st.one_of(operations)

    def _request(self, path: str, method: str, operation: Any) -> st.SearchStrategy[Any]:
        places = {place: {} for place in ("path", "query", "header")}  # type: dict[str, dict[str, Any]]
        for each in operation.get("parameters", ()):
            known = self.ids.get(each["name"]) if each["in"] == "path" else None
            strategy = fitting(each["schema"], self.named) | ANYTHING
            places[each["in"]][each["name"]] = st.sampled_from(known) | strategy if known else strategy
        content = operation.get("requestBody", {}).get("content", {})
        body: st.SearchStrategy[bytes | None] = st.none()
        if "application/json" in content:
            body = self._body(content["application/json"]["schema"])
        elif content:
            body = self._form(content["multipart/form-data"]["schema"])
        kind = FORM_HEADERS if "multipart/form-data" in content else TOKEN_HEADERS
        return st.builds(
            lambda named, query, headers, sent: (
                method.upper(),
                path.format(**{name: quote(str(value), safe="") or "x" for name, value in named.items()})
                + (f"?{urlencode({name: _word(value) for name, value in query.items()})}" if query else ""),
                sent,
                kind | {name: quote(_word(value), safe=" ,=") for name, value in headers.items()},
            ),
            st.fixed_dictionaries(places["path"]),
            st.fixed_dictionaries({}, optional=places["query"]),
            st.fixed_dictionaries({}, optional=places["header"]),
            body,
        )

    def _body(self, schema: Any) -> st.SearchStrategy[bytes]:
        """What fits, and names a model that is there where it can; what does not; what is no JSON."""
        model = st.sampled_from(["stub", "stub", "nobody"])
        known = st.builds(lambda value, name: value | {"model": name}, fitting(schema, self.named), model)
        values = (known if "model" in schema.get("properties", {}) else fitting(schema, self.named)) | ANYTHING
        return values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30)

    def _form(self, schema: Any) -> st.SearchStrategy[bytes]:
        """The fields that are known and others, in any number and order; and what is no form."""
        names = [*self.named[schema["$ref"].rpartition("/")[2]]["properties"], "stream", 'x"; filename="y']
        field = st.tuples(
            st.sampled_from(names), st.sampled_from([b"stub", b"batch", b"true"]) | st.binary(max_size=30)
        )
        return st.lists(field, max_size=5).map(_as_form) | st.binary(max_size=30)


def _as_form(fields: list[tuple[str, bytes]]) -> bytes:
    parts = [b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (n.encode(), v) for n, v in fields]
    return b"".join(parts) + b"--x--\r\n"


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Daemon]]:
    folder: Path = tmp_path_factory.mktemp("openapi")
    settings_ = {"backends": {"stub": stubbed(folder, "--tokens", "2")}, "queue": {"timeout": "3s"}}
    with asyncio.Runner() as runner:
        whole = running(Daemon(folder, settings_))
        daemon = runner.run(whole.__aenter__())
        house = None
        try:
            house = Served(daemon.address)
            yield house, daemon
        finally:
            if house is not None:
                house.close()
            runner.run(whole.__aexit__(None, None, None))


@settings(max_examples=10, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_nothing_that_can_be_sent_is_a_fault(served: tuple[Served, Daemon], data: st.DataObject) -> None:
    house, daemon = served
    for _ in range(60):
        method, target, body, headers = data.draw(house.requests)
        status, told = house.ask(method, target, body, **headers)
        assert status != FAULT, (method, target, body, headers, told)
    assert "failed by a bug" not in daemon.log()
    assert house.ask("GET", "/healthz")[0] == 200
