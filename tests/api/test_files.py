"""Files, through the official client and past it."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import openai
import pytest

from supervisord.api.multipart import LONGEST_TEXT, MOST_FIELDS, Form
from supervisord.api.sending import send
from supervisord.core.errors import InvalidRequestError, UnsupportedMediaTypeError
from supervisord.core.keys import Key, digest_of
from supervisord.core.record import FILE_PART
from supervisord.engine.work.durable import Durable
from tests.api.batch_house import batch_house, until
from tests.engine.rig import beside
from tests.fakes.clock import fake_time
from tests.fakes.hands import Hands

TEXT = b'{"custom_id":"a"}\r\n--not the end\r\n\r\nsome \xff bytes'
KINDS = {"content-type": "multipart/form-data; boundary=XX"}


def form(*fields: tuple[str, str, bytes], boundary: str = "XX") -> bytes:
    """Fields of (name, rest of the disposition, content)."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{rest}\r\n\r\n'.encode() + content + b"\r\n"
        for name, rest, content in fields
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


FILE = ("file", '; filename="in.jsonl"', TEXT)
HEAD = form(FILE).partition(TEXT)[0]
PURPOSE = ("purpose", "", b"batch")


async def test_the_official_client_uploads_and_reads(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_bytes(TEXT)
    async with batch_house() as house, house.client() as client:
        made = await client.files.create(file=tmp_path / "lines.jsonl", purpose="batch")

        assert (made.object, made.bytes, made.filename) == ("file", len(TEXT), "lines.jsonl")
        assert (made.purpose, made.status, made.expires_at) == ("batch", "processed", None)
        assert await client.files.retrieve(made.id) == made
        assert [file async for file in client.files.list()] == [made]
        assert await (await client.files.content(made.id)).aread() == TEXT
        gone = await client.files.delete(made.id)
        assert (gone.id, gone.deleted) == (made.id, True)
        for ask in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                await ask(made.id)
        assert house.store._parts == {}


async def test_a_long_file_comes_back_as_it_went() -> None:
    data = bytes(range(256)) * (5 * FILE_PART // 256) + b"rest"
    async with batch_house() as house, house.client() as client:
        made = await client.files.create(file=("long", data), purpose="batch")
        assert made.bytes == len(data)
        assert [len(part) for part in house.store._parts[made.id].values()] == [*[FILE_PART] * 5, 4]
        assert await (await client.files.content(made.id)).aread() == data


async def test_an_empty_file_is_a_file() -> None:
    async with batch_house() as house, house.client() as client:
        made = await client.files.create(file=("none", b""), purpose="batch")
        assert made.bytes == 0
        assert await (await client.files.content(made.id)).aread() == b""


async def test_a_list_goes_page_by_page() -> None:
    async with batch_house() as house, house.client() as client:
        made = [(await client.files.create(file=(str(n), b"x"), purpose="batch")).id for n in range(5)]
        assert [file.id async for file in client.files.list(limit=2)] == made[::-1]
        assert [file.id async for file in client.files.list(limit=2, order="asc")] == made
        assert [file.id async for file in client.files.list(purpose="other")] == []
        page = await client.files.list(limit=3)
        assert page.has_more
        for asked in ({"order": "up"}, {"limit": -1}, {"limit": 10_001}):
            with pytest.raises(openai.BadRequestError):
                await client.files.list(**asked)  # type: ignore[arg-type]


async def test_a_life_can_be_asked_for() -> None:
    async with batch_house() as house, house.client() as client:
        asked = {"anchor": "created_at", "seconds": 3600}
        made = await client.files.create(file=("a", b"x"), purpose="batch", expires_after=asked)  # type: ignore[arg-type]
        assert made.expires_at == pytest.approx(made.created_at + 3600, abs=1)
        for wrong in (
            {"anchor": "created_at", "seconds": 60},
            {"anchor": "now", "seconds": 3600},
            {"anchor": "created_at", "seconds": "000003600" + 400 * "0"},
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                await client.files.create(file=("a", b"x"), purpose="batch", expires_after=wrong)  # type: ignore[arg-type]
            assert refused.value.param == "expires_after"


async def test_another_purpose_is_refused_and_nothing_is_kept() -> None:
    async with batch_house() as house, house.client() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.files.create(file=("a", b"x" * 3 * FILE_PART), purpose="fine-tune")
        assert refused.value.param == "purpose"
        assert [file async for file in client.files.list()] == []
        assert house.store._parts == {}


BROKEN = [
    (form(FILE), 400, "purpose"),
    (form(PURPOSE), 400, "file"),
    (form(("file", "", b"no name"), PURPOSE), 400, "file"),
    (form(FILE, FILE, PURPOSE), 400, "file"),
    (form(("other", '; filename="x"', b""), PURPOSE), 400, "file"),
    (form(PURPOSE, PURPOSE, FILE), 400, "purpose"),
    (form(("", "", b"x"), FILE), 400, None),
    (form(("x", "", b"y" * (LONGEST_TEXT + 1)), FILE), 400, "x"),
    (form(*[(f"f{n}", "", b"") for n in range(MOST_FIELDS + 1)]), 400, None),
    (form(FILE, PURPOSE)[:-8], 400, None),
    (b"", 400, None),
    (b"nothing of a form", 400, None),
    (form(FILE, PURPOSE, boundary="YY"), 400, None),
    (
        b"--XX\r\nContent-Disposition: form-data; name=file; filename=a\r\nContent-Transfer-Encoding: base64\r\n\r\n",
        400,
        None,
    ),
]


@pytest.mark.parametrize(("body", "status", "param"), BROKEN)
async def test_a_broken_form_is_refused_in_words(body: bytes, status: int, param: str | None) -> None:
    async with batch_house() as house, aiohttp.ClientSession() as http:
        async with http.post(house.url + "/v1/files", data=body, headers=KINDS) as answer:
            told = (await answer.json())["error"]
            assert (answer.status, told["param"]) == (status, param), told
        assert house.store._files == {}


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "x" * 71,
        "multipart/mixed; boundary=a",
    ],
)
async def test_what_is_no_form_is_refused_unread(kind: str) -> None:
    headers = {"content-type": kind}
    async with batch_house() as house, aiohttp.ClientSession() as http:
        answer = await http.post(house.url + "/v1/files", data=b"x", headers=headers)
        assert (answer.status, (await answer.json())["error"]["code"]) == (415, "unsupported_media_type")
    with pytest.raises(UnsupportedMediaTypeError):
        Form(kind)


async def test_a_file_beyond_the_limit_is_refused_however_it_is_sent() -> None:
    async def endless() -> object:
        yield HEAD
        for _ in range(100):
            yield b"x" * 1000

    async with batch_house(upload_limit=50_000) as house, aiohttp.ClientSession() as http:
        for data in (form(("file", '; filename="a"', b"x" * 60_000)), endless()):
            async with http.post(house.url + "/v1/files", data=data, headers=KINDS) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (413, "request_too_large")
        assert house.store._parts == {}


async def test_what_a_client_left_half_sent_is_thrown_away() -> None:
    async with batch_house() as house:
        host = house.url.removeprefix("http://")
        _, writer = await asyncio.open_connection(*host.split(":"))
        head = f"POST /v1/files HTTP/1.1\r\nhost: {host}\r\ncontent-type: {KINDS['content-type']}\r\n"
        writer.write(f"{head}content-length: 9999999\r\n\r\n".encode() + HEAD + b"x" * 3 * FILE_PART)
        await until(lambda: house.store._parts)
        writer.transport.abort()
        await until(lambda: not house.store._parts)
        await writer.wait_closed()


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_a_form_may_come_in_any_parts(size: int) -> None:
    body, made, got = (
        form(("empty", "", b""), FILE, ("purpose", "", "bätch".encode())),
        Form(KINDS["content-type"]),
        b"",
    )
    for at in range(0, len(body), size):
        got += b"".join(made.feed(body[at : at + size]))
    made.finish()

    assert got == TEXT
    assert made.filename == "in.jsonl"
    assert made.texts == {"empty": "", "purpose": "bätch"}


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\dir\\\\in.jsonl", "in.jsonl"),
        ("a\tb", "ab"),
        ("x" * 300, "x" * 255),
        ("/", "file"),
    ],
)
def test_names_of_files_are_plain(sent: str, kept: str) -> None:
    made = Form(KINDS["content-type"])
    made.feed(form(("file", f'; filename="{sent}"', b"")))
    assert made.filename == kept


def test_a_form_without_an_end_is_broken() -> None:
    made = Form(KINDS["content-type"])
    made.feed(form(FILE)[:-4])
    with pytest.raises(InvalidRequestError):
        made.finish()


ANN, BOB = "secret-of-ann", "secret-of-bob"
KEYS = [Key("ann", digest_of(ANN)), Key("bob", digest_of(BOB))]


async def test_keys_keep_files_apart() -> None:
    async with batch_house(keys=KEYS) as house, house.client(ANN) as ann, house.client(BOB) as bob:
        made = await ann.files.create(file=("a", b"x"), purpose="batch")
        assert [file.id async for file in bob.files.list()] == []
        for ask in (bob.files.retrieve, bob.files.content, bob.files.delete):
            with pytest.raises(openai.NotFoundError):
                await ask(made.id)
        assert [file.id async for file in ann.files.list()] == [made.id]


class _Stalled:
    """A client that takes one part, and nothing more."""

    bodiless = False

    def __init__(self) -> None:
        self.ended = ""

    def start(self, status: int, headers: object, *, length: int | None) -> None:
        assert (status, length) == (200, None)

    def write(self, data: bytes) -> bool:
        return False

    async def drained(self) -> None:
        await asyncio.Event().wait()

    def finish(self) -> None:
        self.ended = "finished"

    def abort(self) -> None:
        self.ended = "aborted"


async def test_who_takes_nothing_is_cut_off() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x"
        raise AssertionError("nobody waits for more")

    client = _Stalled()
    with fake_time() as clock:
        async with beside(send(client, (), parts(), stall_s=60)) as sending:  # type: ignore[arg-type]
            await clock.advance(59)
            assert not sending.done()
            await clock.advance(2)
            assert sending.done()
    assert client.ended == "aborted"


def test_the_stand_in_for_jobs_has_what_is_used() -> None:
    """`Hands` stands for `Durable`: what it offers has the same names and parameters."""
    for name in ("accept_many", "end_batch", "on_ended"):
        theirs, ours = (list(inspect.signature(getattr(each, name)).parameters) for each in (Durable, Hands))
        assert theirs == ours
