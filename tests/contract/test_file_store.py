"""What every store promises of files: the one on disk and the one that stands in for it in tests."""

from collections.abc import Callable, Sequence

import pytest

from supervisord.core.record import FILE_PART, BatchStatus, FileRecord, FileStatus
from supervisord.ports import Page, Store
from tests.fakes.records import a_batch, a_file

PURPOSES = frozenset({"batch", "user_data"})


async def uploaded(store: Store, file: FileRecord, parts: Sequence[bytes]) -> None:
    for number, part in enumerate(parts):
        await store.put_file_part(file.id, number, part)
    await store.put_file(file)


async def content(store: Store, file_id: str) -> bytes:
    parts = []
    while (part := await store.file_part(file_id, len(parts))) is not None:
        parts.append(part)
    return b"".join(parts)


async def test_a_file_is_read_back_as_it_was_uploaded(store: Store) -> None:
    parts = [b"a" * FILE_PART, b"\x00\xff" * 7]
    file = a_file(1, filename="ä\u2028.jsonl", expires_at=9e9)
    await uploaded(store, file, parts)
    assert await store.file("file-1") == file
    assert await content(store, "file-1") == b"".join(parts)
    assert await store.file("file-2") is None
    assert await store.file_part("file-1", 2) is None
    assert await store.file_part("file-2", 0) is None


async def test_a_part_and_a_record_may_come_again(store: Store) -> None:
    await store.put_file(a_file(1, status=FileStatus.UPLOADING, bytes=0))
    await store.put_file_part("file-1", 0, b"first")
    await store.put_file_part("file-1", 0, bytearray(b"again"))
    found = await store.file("file-1")
    assert found is not None
    assert found.status is FileStatus.UPLOADING
    assert await store.files(Page(), PURPOSES) == []
    await store.put_file(a_file(1))
    assert await store.files(Page(), PURPOSES) == [a_file(1)]
    assert await content(store, "file-1") == b"again"


async def test_files_come_page_by_page(store: Store) -> None:
    for number in range(1, 7):
        await store.put_file(a_file(number, purpose="batch" if number < 6 else "user_data", client=f"c{number % 2}"))

    async def numbers(*purposes: str, **page: object) -> list[int]:
        found = await store.files(Page(**page), purposes or PURPOSES)  # type: ignore[arg-type]
        return [int(file.id[-1]) for file in found]

    assert await numbers() == [6, 5, 4, 3, 2, 1]
    assert await numbers("batch", limit=2) == [5, 4]
    assert await numbers(limit=2, after="file-4") == [3, 2]
    assert await numbers(limit=2, before="file-2") == [4, 3]
    assert await numbers(limit=9, before="file-2", after="file-5") == [4, 3]
    assert await numbers(limit=2, oldest_first=True) == [1, 2]
    assert await numbers(limit=2, oldest_first=True, after="file-4") == [5, 6]
    assert await numbers(limit=2, oldest_first=True, before="file-4") == [2, 3]
    assert await numbers("batch", client="c1") == [5, 3, 1]
    assert await numbers("other") == []
    assert await numbers("user_data", "other") == [6]


async def test_a_file_past_its_time_is_not_found(store: Store, clock: list[float]) -> None:
    await store.put_file(a_file(1, expires_at=clock[0] + 10))
    clock[0] += 9.5
    assert await store.file("file-1") is not None
    clock[0] += 0.5
    assert await store.file("file-1") is None
    assert await store.files(Page(), PURPOSES) == []


async def test_a_file_past_its_time_stays_while_a_batch_has_to_read_it(store: Store, clock: list[float]) -> None:
    file = a_file(1, expires_at=clock[0] + 10)
    await store.put_file(file)
    await store.put_batch(a_batch(1, BatchStatus.VALIDATING, input_file="file-1"))
    clock[0] += 11
    assert await store.file("file-1") == file
    assert await store.files(Page(), PURPOSES) == [file]
    await store.put_batch(a_batch(1, BatchStatus.FAILED, input_file="file-1"))
    assert await store.file("file-1") is None
    assert await store.files(Page(), PURPOSES) == []


@pytest.mark.parametrize("parts", [0, 1, 32, 70])
async def test_a_deleted_file_is_gone_with_its_parts(store: Store, parts: int) -> None:
    await uploaded(store, a_file(1), [b"x"] * parts)
    await uploaded(store, a_file(2), [b"y"])
    assert await store.delete_file("file-1")
    assert not await store.delete_file("file-1")
    assert await store.file("file-1") is None
    assert await content(store, "file-1") == b""
    assert await store.files(Page(), PURPOSES) == [a_file(2)]
    assert await content(store, "file-2") == b"y"


async def test_an_upload_that_was_given_up_leaves_nothing(store: Store) -> None:
    await store.put_file_part("file-1", 0, b"x")
    assert not await store.delete_file("file-1")
    assert await content(store, "file-1") == b""


async def test_an_upload_that_its_daemon_did_not_survive_is_dropped(
    kind: str, make: Callable[[bool], Store], store: Store
) -> None:
    await uploaded(store, a_file(1), [b"whole"])
    await store.put_file(a_file(2, status=FileStatus.UPLOADING))
    await store.put_file_part("file-2", 0, b"known")
    await store.put_file_part("file-3", 0, b"not even known")
    await store.close()
    later = store if kind == "memory" else make(True)
    await later.open()
    try:
        assert await later.files(Page(), PURPOSES) == [a_file(1)]
        assert await later.file("file-2") is None
        assert await later.file("file-3") is None
        for file_id in ("file-2", "file-3"):
            assert not await later.delete_file(file_id)  # and what is left of it goes at once
            assert await content(later, file_id) == b""
        assert await content(later, "file-1") == b"whole"
    finally:
        await later.close()
