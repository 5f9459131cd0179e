"""Models in the daemon's answers. Sizes are bytes."""

from dataclasses import dataclass

from supervisord.cli.supctl.wire import Doc


@dataclass(frozen=True, slots=True)
class Server:
    """A backend, as part of a model. The sources tell how the expected sizes are known."""

    name: str
    phase: str
    last_resort: bool
    context_tokens: int | None
    quantization: str
    expected_vram: int | None
    expected_ram: int | None
    vram_source: str
    ram_source: str
    held: str

    @classmethod
    def read(cls, doc: Doc) -> "Server":
        return cls(
            name=doc.text("name"),
            phase=doc.text("phase"),
            last_resort=doc.flag("last_resort"),
            context_tokens=doc.whole("context_tokens"),
            quantization=doc.text("quantization"),
            expected_vram=doc.whole("expected_vram_bytes"),
            expected_ram=doc.whole("expected_ram_bytes"),
            vram_source=doc.text("vram_source"),
            ram_source=doc.text("ram_source"),
            held=doc.text("held"),
        )


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    aliases: tuple[str, ...]
    strategy: str
    default: bool
    loaded: bool
    queued: int
    servers: tuple[Server, ...]

    @classmethod
    def read(cls, doc: Doc) -> "Model":
        return cls(
            name=doc.text("name"),
            aliases=doc.texts("aliases"),
            strategy=doc.text("strategy"),
            default=doc.flag("default"),
            loaded=doc.flag("loaded"),
            queued=doc.count("queued"),
            servers=tuple(Server.read(each) for each in doc.each("backends")),
        )
