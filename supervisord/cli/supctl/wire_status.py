"""The status in the daemon's answer: the daemon as a whole, and each backend. Sizes are bytes, spans seconds."""

from dataclasses import dataclass

from supervisord.cli.supctl.wire import Doc, Gpu, Host, Pool, Queue


@dataclass(frozen=True, slots=True)
class Group:
    """A backend's control group as the kernel counts it; None: it does not tell. `at_limit`: how often it was held."""

    memory: int | None
    peak: int | None
    limit: int | None
    at_limit: int | None
    oom_kills: int | None
    pids: int | None

    @classmethod
    def read(cls, doc: Doc) -> "Group":
        return cls(
            memory=doc.whole("memory_bytes"),
            peak=doc.whole("memory_peak_bytes"),
            limit=doc.whole("memory_limit_bytes"),
            at_limit=doc.whole("at_limit"),
            oom_kills=doc.whole("oom_kills"),
            pids=doc.whole("pids"),
        )


@dataclass(frozen=True, slots=True)
class Log:
    """What became of the output of a backend since its start. `cut`: lines of which only the beginning was kept."""

    lines: int
    cut: int
    dropped: int  # bytes that the disk did not take
    degraded: str

    @classmethod
    def read(cls, doc: Doc) -> "Log":
        return cls(
            lines=doc.count("lines"),
            cut=doc.count("cut_lines"),
            dropped=doc.count("dropped_bytes"),
            degraded=doc.text("degraded"),
        )


@dataclass(frozen=True, slots=True)
class Rung:
    """The size it runs at: 0 is as configured, each further one smaller. `climb_in_s`: until a larger one is tried."""

    number: int
    of: int
    name: str
    why: str
    climb_in_s: float | None

    @classmethod
    def read(cls, doc: Doc) -> "Rung":
        return cls(
            number=doc.count("rung"),
            of=doc.count("rungs"),
            name=doc.text("rung_name"),
            why=doc.text("rung_why"),
            climb_in_s=doc.number("climb_in_s"),
        )


@dataclass(frozen=True, slots=True)
class Backend:
    name: str
    runtime: str
    phase: str
    since_s: float | None
    pid: int | None
    model: str
    quantization: str
    context_tokens: int | None
    context_reduced: bool
    slots: int
    in_flight: int
    queued: int
    tokens_per_second: float | None
    restarts: int
    last_reason: str
    note: str
    held: str  # what it waits for before it may start
    rss: int | None
    vram: int | None
    next_start_in_s: float | None
    models: tuple[str, ...]
    generation: int
    rung: Rung
    limit_memory: int | None  # as configured
    limit_pids: int | None
    group: Group | None
    log: Log

    @classmethod
    def read(cls, doc: Doc) -> "Backend":
        limits, group = doc.child("limits"), doc.child("group")
        return cls(
            name=doc.text("name"),
            runtime=doc.text("runtime"),
            phase=doc.text("phase"),
            since_s=doc.number("since_s"),
            pid=doc.whole("pid"),
            model=doc.text("model"),
            quantization=doc.text("quantization"),
            context_tokens=doc.whole("context_tokens"),
            context_reduced=doc.flag("context_reduced"),
            slots=doc.count("slots"),
            in_flight=doc.count("in_flight"),
            queued=doc.count("queued"),
            tokens_per_second=doc.number("tokens_per_second"),
            restarts=doc.count("restarts"),
            last_reason=doc.text("last_reason"),
            note=doc.text("note"),
            held=doc.text("held"),
            rss=doc.whole("rss_bytes"),
            vram=doc.whole("vram_bytes"),
            next_start_in_s=doc.number("next_start_in_s"),
            models=doc.texts("models"),
            generation=doc.count("generation"),
            rung=Rung.read(doc),
            limit_memory=limits.whole("memory_bytes"),
            limit_pids=limits.whole("pids"),
            group=Group.read(group) if group.values else None,
            log=Log.read(doc.child("log")),
        )


@dataclass(frozen=True, slots=True)
class Status:
    version: str
    uptime_s: float | None
    listen: str
    state: str
    degraded: tuple[str, ...]
    queue: Queue
    done_today: int
    failed_today: int
    host: Host | None
    sensor_state: str
    sensor_problem: str
    gpus: tuple[Gpu, ...]
    pools: tuple[Pool, ...]
    store_problem: str
    store_path: str
    store_size: int | None
    groups_kind: str  # v2, v1 or none
    groups_problem: str
    groups_controllers: tuple[str, ...]
    backends: tuple[Backend, ...]

    @classmethod
    def read(cls, doc: Doc) -> "Status":
        host, today, sensor = doc.child("host"), doc.child("jobs_today"), doc.child("gpu_sensor")
        groups = doc.child("groups")
        return cls(
            version=doc.text("version"),
            uptime_s=doc.number("uptime_s"),
            listen=doc.text("listen"),
            state=doc.text("state"),
            degraded=doc.texts("degraded"),
            queue=Queue.read(doc.child("queue")),
            done_today=today.count("done"),
            failed_today=today.count("failed"),
            host=Host.read(host) if host.values else None,
            sensor_state=sensor.text("state"),
            sensor_problem=sensor.text("problem"),
            gpus=tuple(Gpu.read(item) for item in doc.each("gpus")),
            pools=tuple(Pool.read(item) for item in doc.each("pools")),
            store_problem=doc.child("store").text("problem"),
            store_path=doc.child("store").text("path"),
            store_size=doc.child("store").whole("size_bytes"),
            groups_kind=groups.text("kind"),
            groups_problem=groups.text("problem"),
            groups_controllers=groups.texts("controllers"),
            backends=tuple(Backend.read(item) for item in doc.each("backends")),
        )
