"""A card, a few models that do not all fit on it, and clients: discrete events in virtual time, placed by plan()."""

import random
from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush

from supervisord.core.memory import GIB
from supervisord.core.placement import Plan, Pool, Standing, Tenant, plan

CARD = 24 * GIB
RESERVE = 2 * GIB
GPU = "GPU-0"
RELEASE_S = 0.2  # from the end of a process until its memory is measured free


@dataclass(frozen=True)
class Request:
    """One request of a client; `service_s` is how long the model takes to answer it."""

    model: str
    service_s: float


@dataclass
class Waiting:
    request: Request
    arrived: float
    client: int | None


@dataclass
class Model:
    name: str
    load_s: float
    takes: int
    standing: Standing = Standing.AWAY
    queue: deque[Waiting] = field(default_factory=deque)
    running: Waiting | None = None
    idle_since: float = 0.0
    ready_since: float = 0.0
    closed: bool = False

    def tenant(self, max_wait_s: float) -> Tenant:
        here = self.standing in {Standing.RESIDENT, Standing.LEAVING}
        return Tenant(
            self.name,
            Standing.WAITING if self.standing is Standing.AWAY and self.queue else self.standing,
            expects={GPU: self.takes},
            holds={GPU: self.takes if here else 0},
            turn=frozenset({GPU}),
            in_flight=int(self.running is not None),
            queued=len(self.queue),
            due=self.queue[0].arrived if self.queue else None,
            rank=self.queue[0].arrived if self.queue else None,
            idle_since=self.idle_since,
            ready_since=self.ready_since,
            load_s=self.load_s,
            max_wait_s=max_wait_s,
        )


@dataclass
class World:
    """Clients send their requests one after another, each as soon as the one before it is answered.

    `timed` requests come when they come, whatever becomes of the others.
    """

    models: dict[str, Model]
    clients: list[deque[Request]]
    timed: list[tuple[float, Request]] = field(default_factory=list)
    max_wait_s: float = 30.0
    now: float = 0.0
    loads: int = 0
    waited: dict[str, list[float]] = field(default_factory=dict)
    served: list[tuple[float, str]] = field(default_factory=list)
    _events: list[tuple[float, int, str, str]] = field(default_factory=list)
    _count: int = 0

    @property
    def waits(self) -> list[float]:
        return [wait for waits in self.waited.values() for wait in waits]

    def run(self) -> None:
        for number, (when, _) in enumerate(self.timed):
            self.at(when, "arrival", str(number))
        for client in range(len(self.clients)):
            self.send(client)
        self.decide()
        while self._events:
            self.now, _, kind, name = heappop(self._events)
            getattr(self, f"on_{kind}")(name)
            self.decide()

    def at(self, when: float, kind: str, name: str = "") -> None:
        self._count += 1
        heappush(self._events, (when, self._count, kind, name))

    def send(self, client: int) -> None:
        if self.clients[client]:
            self.receive(self.clients[client].popleft(), client)

    def receive(self, request: Request, client: int | None = None) -> None:
        self.models[request.model].queue.append(Waiting(request, self.now, client))

    def on_arrival(self, number: str) -> None:
        self.receive(self.timed[int(number)][1])

    def on_look(self, _: str) -> None:
        """plan() asked to be asked again."""

    def on_ready(self, name: str) -> None:
        model = self.models[name]
        model.standing, model.ready_since, model.idle_since = Standing.RESIDENT, self.now, self.now

    def on_released(self, name: str) -> None:
        self.models[name].standing = Standing.AWAY

    def on_answered(self, name: str) -> None:
        model = self.models[name]
        assert model.running is not None
        client, model.running, model.idle_since = model.running.client, None, self.now
        self.served.append((self.now, name))
        if client is not None:
            self.send(client)

    def decide(self) -> None:
        self.obey(self.ask())
        for model in self.models.values():
            if model.standing is Standing.RESIDENT and not model.closed and model.running is None and model.queue:
                model.running = model.queue.popleft()
                self.waited.setdefault(model.name, []).append(self.now - model.running.arrived)
                self.at(self.now + model.running.request.service_s, "answered", model.name)

    def ask(self) -> Plan:
        used = sum(m.takes for m in self.models.values() if m.standing is not Standing.AWAY)
        assert used <= CARD - RESERVE
        held = sum(m.takes for m in self.models.values() if m.standing in {Standing.RESIDENT, Standing.LEAVING})
        pool = Pool(GPU, "gpu0", CARD, CARD - held, RESERVE)
        return plan([m.tenant(self.max_wait_s) for m in self.models.values()], {GPU: pool}, self.now)

    def obey(self, decided: Plan) -> None:
        for name in decided.admit:
            self.models[name].standing = Standing.STARTING
            self.loads += 1
            assert self.loads < 1000, "models change places for ever"
            self.at(self.now + self.models[name].load_s, "ready", name)
        for model in self.models.values():
            model.closed = model.name in decided.close
        for name in decided.leave:
            assert self.models[name].running is None
            self.models[name].standing = Standing.LEAVING
            self.at(self.now + RELEASE_S, "released", name)
        if decided.look_again is not None:
            assert decided.look_again > self.now
            self.at(decided.look_again, "look")


def random_world(
    seed: int, *, places: int, models: int = 4, clients: int = 8, requests: int = 200, max_wait_s: float = 30.0
) -> World:
    """Mixed requests of closed-loop clients. Loads take 1 to 8 s, answers 0.2 to 1 s; `places` models fit at a time."""
    draw = random.Random(seed)
    names = [f"m{i}" for i in range(models)]
    takes = (CARD - RESERVE) // places
    each = requests // clients
    return World(
        {name: Model(name, draw.uniform(1.0, 8.0), takes) for name in names},
        [deque(Request(draw.choice(names), draw.uniform(0.2, 1.0)) for _ in range(each)) for _ in range(clients)],
        max_wait_s=max_wait_s,
    )
