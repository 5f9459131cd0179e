"""The checking process as the daemon has it: asked one thing at a time, and ended for good."""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

import msgspec
from typing_extensions import override

from supervisord.adapters.output_checker.frames import LENGTH, Reply

START_S = 30.0  # until it has read its modules: 0.3 s, and far more on a machine that swaps
END_S = 1.0  # after SIGKILL; longer takes only what hangs in the kernel

_ROOT: Final = Path(__file__).parents[3]
# Isolated from PYTHON* variables and from the working folder; the package is where the daemon's own is.
_BEGIN: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from supervisord.adapters.output_checker.worker import main; main()"
)


class GoneError(Exception):
    """There is no process to ask; why, in words."""


class Child(asyncio.SubprocessProtocol):
    """The process. `reply`: the next that it gives; `ended`: done when it is no more."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[Reply] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._buffer = bytearray()
        self._transport: asyncio.SubprocessTransport | None = None

    @property
    def pid(self) -> int | None:
        return None if self._transport is None else self._transport.get_pid()

    async def begin(self) -> None:
        """Returns once it can be asked. Raises GoneError; whoever leaves meanwhile ends it."""
        argv = (sys.executable, "-I", "-c", _BEGIN, str(_ROOT), str(os.getpid()))
        nowhere = asyncio.subprocess.DEVNULL  # a traceback may quote what is checked
        try:
            async with asyncio.timeout(START_S):
                await asyncio.get_running_loop().subprocess_exec(lambda: self, *argv, stderr=nowhere)
                await self.reply
        except TimeoutError:
            raise GoneError(f"the checking process has not begun within {START_S:g} s") from None
        except OSError as error:
            raise GoneError(f"the checking process cannot be started: {os.strerror(error.errno or 0)}") from error

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)  # uvloop's is no subclass
        if self.reply.done():  # given up before it was there
            self.kill()

    async def ask(self, frame: bytes) -> Reply:
        """Raises GoneError when it ends first."""
        if self.ended.done():
            raise GoneError("the checking process ended")
        self.reply = asyncio.get_running_loop().create_future()
        assert self._transport is not None
        cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0)).write(frame)
        return await self.reply

    @override
    def pipe_data_received(self, fd: int, data: bytes) -> None:
        del fd
        self._buffer += data
        whole = LENGTH.size + LENGTH.unpack(self._buffer[: LENGTH.size])[0] if len(self._buffer) >= LENGTH.size else 0
        if whole and len(self._buffer) >= whole:
            reply = msgspec.msgpack.decode(self._buffer[LENGTH.size : whole], type=Reply)
            self._buffer.clear()  # one question, one reply
            if not self.reply.done():
                self.reply.set_result(reply)

    @override
    def process_exited(self) -> None:
        status = None if self._transport is None else self._transport.get_returncode()
        if not self.ended.done():
            self.ended.set_result(None)
        if not self.reply.done():
            self.reply.set_exception(GoneError(f"the checking process ended with status {status}"))

    def kill(self) -> None:
        """SIGKILL, and no more of its pipes."""
        if self._transport is not None:
            with suppress(ProcessLookupError):
                self._transport.kill()
            self._transport.close()
        self.reply.cancel()

    async def end(self) -> None:
        """Kill it, and wait for its end."""
        self.kill()
        if self.pid is not None:
            await asyncio.wait((self.ended,), timeout=END_S)
