"""`ports.Upstream` to servers that do what they are told in the words of a request."""

import asyncio
import json
from dataclasses import dataclass, field

from supervisord.ports import Clock, Receiver, UpstreamFault, UpstreamRequest
from supervisord.runtimes.base import Address
from tests.fakes.engine import Processes

POISON = "poison"
STATUS_OF_A_CRASH = 139


@dataclass(slots=True)
class _Exchange:
    """`ports.Exchange`."""

    request: UpstreamRequest
    receiver: Receiver
    over: bool = False

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None:
        self.over = True


@dataclass(slots=True)
class ToldServers:
    """Each answer takes `takes_s`. A request that says POISON ends its server in the middle of it, and all it serves.

    `seen` are the words of all requests, in order; `together` the words of all that were served when a server ended.
    """

    clock: Clock
    processes: Processes
    takes_s: float = 1.0
    status: int = 200
    seen: list[str] = field(default_factory=list)
    together: list[frozenset[str]] = field(default_factory=list)
    _open: list[_Exchange] = field(default_factory=list)

    async def start(self, request: UpstreamRequest, receiver: Receiver) -> _Exchange:
        words = words_of(request)
        exchange = _Exchange(request, receiver)
        if not self._is_up(request.address):
            asyncio.get_running_loop().call_soon(receiver.on_fault, UpstreamFault("connect", "refused"))
            return exchange
        self.seen.append(words)
        self._open.append(exchange)
        share = 0.5 if words == POISON else 1.0
        self.clock.call_at(self.clock.monotonic() + share * self.takes_s, lambda: self._come_to(exchange))
        return exchange

    def _come_to(self, exchange: _Exchange) -> None:
        if exchange not in self._open:
            return
        if words_of(exchange.request) == POISON:
            self.ends(exchange.request.address, STATUS_OF_A_CRASH)
            return
        self._open.remove(exchange)
        if not exchange.over:
            body = json.dumps({"choices": [{"message": {"content": "well"}}], "usage": {"completion_tokens": 1}})
            exchange.receiver.on_head(self.status, ((b"content-type", b"application/json"),))
            exchange.receiver.on_data(body.encode())
            exchange.receiver.on_end()

    def ends(self, address: Address, status: int) -> None:
        """The server there ends, and breaks off all its connections."""
        here = [one for one in self._open if one.request.address == address]
        self.together.append(frozenset(words_of(one.request) for one in here))
        for processes in self.processes.started.values():
            if processes[-1].port == address.port:
                processes[-1].ends(status)
        self.breaks(address)

    def breaks(self, address: Address) -> None:
        """The server there breaks off all its connections; whether it ends, too, is not said."""
        for one in [one for one in self._open if one.request.address == address]:
            self._open.remove(one)
            if not one.over:
                one.receiver.on_fault(UpstreamFault("reset", "connection reset by peer"))

    def _is_up(self, address: Address) -> bool:
        latest = [processes[-1] for processes in self.processes.started.values()]
        return any(process.port == address.port and not process.exited for process in latest)

    def serving(self) -> list[UpstreamRequest]:
        """What is being answered now."""
        return [one.request for one in self._open]

    def forget(self, address: Address) -> None:
        """See `ports.Upstream`."""

    async def close(self) -> None:
        """See `ports.Upstream`."""


def words_of(request: UpstreamRequest) -> str:
    words: str = json.loads(request.body)["messages"][0]["content"]
    return words
