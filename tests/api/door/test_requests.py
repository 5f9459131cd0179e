"""What reaches the application, however the bytes come."""

import pytest

from tests.fakes.public_door import a_door, request_bytes

CHUNKED = (
    b"POST /p HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5;name="x"\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nX-Sum: 1\r\nHost: evil.example\r\n\r\n'
)


async def test_one_request_after_the_other_on_a_kept_connection() -> None:
    async with a_door() as door, door.caller() as caller:
        for number in range(50):
            answer = await caller.ask("POST", f"/p?n={number}", b"b" * number)
            assert (answer.status, answer.json["query"], answer.json["body"]) == (200, f"n={number}", "b" * number)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["date"].endswith(" GMT")
        assert "connection" not in answer.headers


@pytest.mark.parametrize("request_", [request_bytes("POST", "/p", b"hello world"), CHUNKED], ids=["length", "chunked"])
async def test_cut_at_every_byte(request_: bytes) -> None:
    """In two at each place, and bytewise: always the same request, and the next one is not touched by it."""
    async with a_door() as door, door.caller() as caller:
        for at in range(1, len(request_)):
            caller.send(request_[:at])
            await caller.writer.drain()
            caller.send(request_[at:])
            assert (await caller.answer()).json["body"] == "hello world", at
        await caller.send_bytewise(request_)
        assert (await caller.answer()).json["body"] == "hello world"
        first, *others = door.application.requests
        assert all(other == first for other in others)
        assert "x-sum" not in first.headers, "trailers are dropped"
        assert first.headers["host"] == "localhost"


async def test_a_body_in_very_many_chunks() -> None:
    body = bytes(range(256)) * 2000
    chunks = b"".join(b"2\r\n%b\r\n" % body[at : at + 2] for at in range(0, len(body), 2))
    async with a_door() as door, door.caller() as caller:
        caller.send(b"POST /p HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert (await caller.answer()).status == 200
        assert door.application.requests[0].body == body


async def test_a_body_of_many_reads() -> None:
    body = bytes(range(256)) * 4 * 1024 * 3
    async with a_door() as door, door.caller() as caller:
        assert (await caller.ask("POST", "/p", body)).status == 200
        assert (await caller.ask("POST", "/p", b"next")).json["body"] == "next"
        assert door.application.requests[0].body == body


TARGETS = [
    ("/v1/models", "/v1/models", "", ""),
    ("/v1/models/org%2Fname%20x?a=%2F&b#c", "/v1/models/org/name x", "a=%2F&b", ""),
    ("/a%zz%ff", "/a%zz\ufffd", "", ""),
    ("//evil/x", "//evil/x", "", ""),
    ("http://localhost:80/v1/models?x", "/v1/models", "x", "localhost:80"),
    ("HTTP://evil.example", "/", "", "evil.example"),
    ("http://evil.example?x=1", "/", "", "evil.example?x=1"),
    ("*", "*", "", ""),
]


@pytest.mark.parametrize(("target", "path", "query", "host"), TARGETS)
async def test_targets(target: str, path: str, query: str, host: str) -> None:
    async with a_door() as door, door.caller() as caller:
        told = (await caller.ask("OPTIONS", target)).json
        assert (told["path"], told["query"], told["host"]) == (path, query, host)


async def test_headers_are_found_by_lower_case_names_and_doubled_ones_are_joined() -> None:
    async with a_door() as door, door.caller() as caller:
        headers = ("X-Client:  J\u00fcrgen \t", "HOST: evil.example", "Accept: a", "accept:", "Accept: b")
        told = (await caller.ask("GET", "/", b"", *headers)).json["headers"]
        assert told["x-client"] == "J\u00fcrgen"
        assert told["host"] == "localhost, evil.example"
        assert told["accept"] == "a, , b"


async def test_bytes_that_are_no_text_do_no_harm() -> None:
    async with a_door() as door, door.caller() as caller:
        caller.send(b"GET / HTTP/1.1\r\nhost: \xff\xfe\r\n\r\n")
        assert (await caller.answer()).json["headers"]["host"] == "\ufffd\ufffd"


async def test_empty_lines_before_a_request_are_skipped() -> None:
    async with a_door() as door, door.caller() as caller:
        caller.send(b"\r\n\r\n" + request_bytes() + b"\r\n" + request_bytes())
        assert [(await caller.answer()).status for _ in range(2)] == [200, 200]


# --- HTTP/1.0, HEAD, Expect, Upgrade ---------------------------------------------------------------------------------


async def test_http_1_0_ends_the_connection_unless_asked_otherwise() -> None:
    async with a_door() as door:
        async with door.caller() as caller:
            caller.send(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n")
            answer = await caller.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await caller.closed() == b""
        async with door.caller() as caller:
            for _ in range(2):
                caller.send(b"GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
                assert (await caller.answer()).headers["connection"] == "keep-alive"


async def test_connection_close_is_obeyed() -> None:
    async with a_door() as door, door.caller() as caller:
        answer = await caller.ask("GET", "/", b"", "connection: close")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await caller.closed() == b""


async def test_head_has_no_body() -> None:
    async with a_door() as door, door.caller() as caller:
        for last in ("keep-alive", "close"):
            caller.send(request_bytes("HEAD", "/", b"", f"connection: {last}"))
            answer = await caller.answer(bodiless=True)
            assert int(answer.headers["content-length"]) > 0
        assert await caller.closed() == b""


async def test_expect_100_continue() -> None:
    async with a_door() as door, door.caller() as caller:
        whole = request_bytes("POST", "/p", b"body", "Expect: 100-Continue")
        caller.send(whole[:-4])
        assert (await caller.answer(bodiless=True)).status == 100
        caller.send(whole[-4:])
        assert (await caller.answer()).json["body"] == "body"
        caller.send(whole)
        assert (await caller.answer()).status == 200, "the body had come along: nobody waits for a word"


async def test_expect_is_answered_with_the_refusal_and_the_body_is_not_read() -> None:
    async with a_door() as door, door.caller() as caller:
        caller.send(request_bytes("POST", "/forbidden", b"body", "Expect: 100-continue")[:-4])
        answer = await caller.answer()
        assert (answer.status, answer.code, answer.headers["connection"]) == (403, "forbidden_host", "close")
        assert await caller.closed() == b""
        assert door.application.requests == []


async def test_expect_means_nothing_in_http_1_0() -> None:
    async with a_door() as door, door.caller() as caller:
        caller.send(b"POST / HTTP/1.0\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        await caller.send_bytewise(b"hi")
        assert (await caller.answer()).status == 200


@pytest.mark.parametrize(
    "framing", ["content-length: 4\r\n\r\nbody", "transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"]
)
async def test_a_wish_for_another_protocol_is_ignored(framing: str) -> None:
    """Java's client sends it with every first request, and its body behind it."""
    upgrade = "connection: Upgrade, HTTP2-Settings, keep-alive\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    head = f"POST /p HTTP/1.1\r\nhost: localhost\r\n{upgrade}{framing}"
    async with a_door() as door, door.caller() as caller:
        for _ in range(2):
            caller.send(head.encode())
            assert (await caller.answer()).json["body"] == "body"
        await caller.send_bytewise(head.encode())
        assert (await caller.answer()).json["body"] == "body"
        caller.send(head.encode() + head.replace("keep-alive", "close").encode())
        assert [(await caller.answer()).json["body"] for _ in range(2)] == ["body", "body"]
        assert await caller.closed() == b""
