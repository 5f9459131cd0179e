"""Models on a screen: a line for each backend, below the name of its model."""

from collections.abc import Iterator, Sequence

from supervisord.cli.supctl.figures import ABSENT, count, gib, tokens
from supervisord.cli.supctl.screen import Cell, Screen
from supervisord.cli.supctl.status_view import phase, quantized
from supervisord.cli.supctl.table import Column, table
from supervisord.cli.supctl.wire_models import Model, Server

_COLUMNS = (
    Column("MODEL", floor=12),
    Column("BACKEND", floor=12),
    Column("PHASE"),
    Column("CTX", drop=3),
    Column("QUANTIZATION", floor=6, drop=2),
    Column("NEEDS RAM/VRAM", drop=4),
    Column("QUEUE", drop=1),
    Column("CHOSEN", floor=8, drop=5),
    Column("ALIASES", floor=12),
)


def listing(models: Sequence[Model], screen: Screen) -> list[str]:
    if not models:
        return ["no models are served"]
    return table(_COLUMNS, [row for model in models for row in _rows(model)], screen)


def _rows(model: Model) -> Iterator[Sequence[Cell]]:
    """What belongs to the model as a whole stands in its first line only."""
    for at, server in enumerate(model.servers):
        first = at == 0
        yield (
            Cell(model.name if first else ""),
            Cell(server.name),
            phase(server.phase),
            Cell(tokens(server.context_tokens)),
            Cell(quantized(server.quantization) or ABSENT),
            Cell(_needs(server)),
            Cell(count(model.queued) if first else ""),
            Cell(_chosen(model, server, first=first)),
            Cell(_aliases(model) if first else ""),
        )


def _needs(server: Server) -> str:
    """As in `supctl status`: `~` before what is only estimated."""
    if server.expected_ram is None and server.expected_vram is None:
        return ABSENT
    ram = _about(server.expected_ram, server.ram_source)
    return f"{ram}/{_about(server.expected_vram, server.vram_source)}"


def _about(size: int | None, source: str) -> str:
    return f"~{gib(size)}" if size and source == "estimated" else gib(size)


def _chosen(model: Model, server: Server, *, first: bool) -> str:
    if server.last_resort:
        return "last resort"
    return model.strategy.replace("_", " ") if first else ""


def _aliases(model: Model) -> str:
    names = (*model.aliases, "any unknown name") if model.default else model.aliases
    return ", ".join(names)
