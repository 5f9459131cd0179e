"""Who holds the memory of a pool, and who is to come: the line below the host and below each GPU."""

from collections.abc import Sequence

from supervisord.cli.supctl.figures import gib
from supervisord.cli.supctl.screen import Cell, Screen, Style
from supervisord.cli.supctl.wire import Holder, Pool, Tenant

INDENT = "      "
FOREIGN_SHOWN = 4  # a desktop holds VRAM with dozens of small processes
_WORTH_A_WORD = 2**30 // 20  # bytes: less is 0.0 GiB on the screen


def below(pool: Pool | None, screen: Screen) -> list[str]:
    """Nothing where there is nothing to tell."""
    if pool is None:
        return []
    cells = _cells(pool)
    if not cells:
        return []
    reserve = [Cell(f"{gib(pool.reserve)} stays free", Style.FAINT)] if pool.reserve else []
    narrower = Screen(screen.width - len(INDENT), screen.height, screen.terminal, screen.colour)
    return [INDENT + line for line in narrower.flow([*cells, *reserve], gap="   ", indent="")]


def _cells(pool: Pool) -> list[Cell]:
    broken = [Cell(pool.problem, Style.BAD)] if pool.problem else []
    largest = sorted(pool.tenants, key=lambda tenant: (tenant.held, tenant.expected or 0), reverse=True)
    unexplained = pool.unexplained >= _WORTH_A_WORD
    return [
        *broken,
        *(_tenant(tenant) for tenant in largest),
        *_foreign(pool.foreign),
        *([Cell(f"unexplained {gib(pool.unexplained)}", Style.BUSY)] if unexplained else []),
    ]


def _tenant(tenant: Tenant) -> Cell:
    """Measured of expected; `~` before what is only estimated."""
    about = "~" if tenant.source == "estimated" else ""
    expected = "" if tenant.expected is None else f"{about}{gib(tenant.expected)}"
    if tenant.standing == "waiting":
        return Cell(f"{tenant.backend} waits for {expected or 'its place'}", Style.BUSY)
    held = f"{tenant.backend} {gib(tenant.held)}" + (f" of {expected}" if expected else "")
    if tenant.standing in {"starting", "leaving"}:
        return Cell(f"{held}, {tenant.standing}", Style.BUSY)
    return Cell(held)


def _foreign(processes: Sequence[Holder]) -> list[Cell]:
    """Processes that are not ours, each with its number, as that is what one would end it by."""
    largest = sorted(processes, key=lambda process: process.used or 0, reverse=True)
    shown = [each for each in largest if each.used is None or each.used >= _WORTH_A_WORD][:FOREIGN_SHOWN]
    cells = [_process(process) for process in shown]
    rest = [each for each in largest if each not in shown]
    if rest:
        cells.append(Cell(f"{len(rest)} more {gib(sum(process.used or 0 for process in rest))}"))
    return cells


def _process(process: Holder) -> Cell:
    if not process.name:
        return Cell(f"pid {process.pid} {gib(process.used)}")
    return Cell(f"{process.name} {gib(process.used)} (pid {process.pid})")
