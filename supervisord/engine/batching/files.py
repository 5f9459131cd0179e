"""Files of clients: those they upload, and those that a batch's results are read under."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from supervisord.core.errors import ConflictError, NotFoundError, RefusedError
from supervisord.core.record import FILE_PART, FileRecord, FileStatus
from supervisord.engine.batching.output import bad_lines, good_lines, rendered
from supervisord.engine.tasks import Tasks
from supervisord.ports import Clock, Page, WorkStore

UPLOADED = "batch"  # the purpose of what clients upload
RENDERED = "batch_output"
MESSAGES = "message_batch"  # the requests of an Anthropic batch, until they are jobs: nobody's to read
_LISTED = frozenset({UPLOADED, RENDERED})


class Files:
    """All of them. `needed` tells whether a file has still to be read."""

    def __init__(
        self, store: WorkStore, clock: Clock, *, new_id: Callable[[], str], needed: Callable[[str], bool]
    ) -> None:
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._needed = needed
        self._tasks: Tasks | None = None

    def open(self, tasks: Tasks) -> None:
        """From now on there are tasks."""
        self._tasks = tasks

    def begin(self, client: str) -> "Writing":
        """A file is about to come."""
        return Writing(self._store, self._clock, f"file-{self._new_id()}", client)

    def give_up(self, writing: "Writing") -> None:
        """What came of a file is thrown away, in the background: the client has left or sent something else."""
        if self._tasks is not None and writing.parts:
            self._tasks.bounded(self._forget(writing.id), f"forget {writing.id}")

    async def _forget(self, file_id: str) -> None:
        with suppress(RefusedError):  # the next start drops the parts of files that never became whole
            await self._store.delete_file(file_id)

    async def find(self, file_id: str, client: str | None = None) -> FileRecord:
        """`client`: only one of this client. Raises NotFoundError."""
        found = await self._store.file(file_id)
        if (
            found is None
            or found.purpose == MESSAGES
            or found.status is not FileStatus.READY
            or (client not in {None, found.client})
        ):
            raise NotFoundError(f'There is no file "{file_id}". GET /v1/files lists those there are.', param="file_id")
        return found

    async def list(self, page: Page, purpose: str | None) -> Sequence[FileRecord]:
        """A page of them; `purpose`: only of this one."""
        return await self._store.files(page, _LISTED if purpose is None else _LISTED & {purpose})

    async def delete(self, file_id: str, client: str | None = None) -> None:
        """Raises NotFoundError, or ConflictError while a batch has still to read it."""
        await self.find(file_id, client)
        if self._needed(file_id):
            raise ConflictError(f"A batch reads the file {file_id}. Delete it once the batch is in progress.")
        await self._store.delete_file(file_id)

    async def content(self, file: FileRecord) -> AsyncIterator[bytes]:
        """What is in it, part by part. Raises NotFoundError where the answers in it are kept no more."""
        if file.purpose != RENDERED:
            return self._parts(file.id)
        batch = await self._store.batch_of_file(file.id)
        if batch is None:
            raise NotFoundError(f"The batch whose answers are in the file {file.id} is gone.", param="file_id")
        if not batch.answers_kept:
            raise NotFoundError(
                f"The answers in the file {file.id} were kept for as long as store.answers says, and no longer.",
                param="file_id",
            )
        return rendered(self._store, batch, self._clock, good_lines if file.id == batch.output_file else bad_lines)

    async def _parts(self, file_id: str) -> AsyncIterator[bytes]:
        number = 0
        while (part := await self._store.file_part(file_id, number)) is not None:
            number += 1
            yield part


class Writing:
    """A file on its way in. It exists once `finish` has returned."""

    def __init__(self, store: WorkStore, clock: Clock, file_id: str, client: str) -> None:
        self.id = file_id
        self.parts = 0  # handed to the store
        self.size = 0  # bytes
        self._store = store
        self._clock = clock
        self._client = client
        self._kept = bytearray()

    async def write(self, data: bytes) -> None:
        """Returns once there is room for more. Raises StoreUnavailableError."""
        self.size += len(data)
        self._kept += data
        while len(self._kept) >= FILE_PART:
            part = bytes(self._kept[:FILE_PART])
            del self._kept[:FILE_PART]
            await self._put(part)

    async def finish(self, filename: str, purpose: str, expires_s: float | None = None) -> FileRecord:
        """The file, safe from a power cut. `expires_s`: it is kept for so long. Raises StoreUnavailableError."""
        if self._kept:
            await self._put(bytes(self._kept))
        now = self._clock.wall()
        expires_at = None if expires_s is None else now + expires_s
        file = FileRecord(self.id, filename, purpose, self.size, now, self._client, expires_at=expires_at)
        await self._store.put_file(file)
        return file

    async def _put(self, part: bytes) -> None:
        number, self.parts = self.parts, self.parts + 1
        await self._store.put_file_part(self.id, number, part)
