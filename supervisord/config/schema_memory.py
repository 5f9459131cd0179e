"""The settings of the section `memory`."""

from typing import Annotated

from supervisord.config import fields
from supervisord.config.fields import Percent, Rate
from supervisord.config.settings import Settings, section, setting


class VramTight(Settings):
    free: Annotated[int, *fields.size("0B", "1TiB")] = setting("1GiB", "Tight when less is free on a GPU.")
    ratio: Percent = setting("5%", "Tight, too, when a smaller share of a GPU is free.")


class VramCritical(Settings):
    free: Annotated[int, *fields.size("0B", "1TiB")] = setting("256MiB", "Critical when less is free on a GPU.")


class Vram(Settings):
    reserve: Annotated[int, *fields.size("0B", "1TiB")] = setting(
        "2GiB", "Left free on each GPU: no backend starts into it."
    )
    tight: VramTight = section(VramTight, "No backend is woken by a request.")
    critical: VramCritical = section(VramCritical, "No dispatch; idle backends leave.")
    leave_factor: Annotated[float, *fields.number(1, 10)] = setting(
        1.5, "A level is left when this many times as much is free as it was entered at."
    )
    leave_after: Annotated[float, *fields.duration("0s", "1h")] = setting(
        "15s", "A level is left when enough has been free for this long."
    )


class HostTight(Settings):
    available: Percent = setting("10%", "Tight when a smaller share of the RAM is available.")
    stall: Percent = setting(
        "10%", "Tight, too, when all tasks stall this much of the time (PSI full avg10) while the host swaps."
    )
    swap_rate: Rate = setting("10MB", "The host swaps when it moves more than this per second, in and out together.")


class HostCritical(Settings):
    stall: Percent = setting(
        "40%", "Critical when all tasks stall this much of the time (PSI full avg10) while the host swaps."
    )
    for_: Annotated[float, *fields.duration("0s", "1h")] = setting(
        "10s", "Critical only when it has lasted this long.", alias="for"
    )


class Host(Settings):
    reserve: Annotated[int, *fields.size("0B", "1TiB")] = setting(
        "2GiB", "Left free of the RAM: no backend starts into it."
    )
    limit: Annotated[int, *fields.size("256MiB", "16TiB")] | None = setting(
        None, "Most RAM that all backends together may take. Default: all but the reserve."
    )
    tight: HostTight = section(HostTight, "No backend is woken by a request.")
    critical: HostCritical = section(HostCritical, "No dispatch; idle backends leave.")
    leave_after: Annotated[float, *fields.duration("0s", "1h")] = setting(
        "15s", "A level is left when the figures have been below half of it for this long."
    )


class Placement(Settings):
    linger: Annotated[float, *fields.duration("0s", "10m")] = setting(
        "1s", "An idle backend is let go for another only after this long, in case its clients come right back."
    )
    finish: Annotated[float, *fields.duration("1s", "7d")] = setting(
        "60s", "A busy backend that has to make room may finish what it has begun for this long, then it is stopped."
    )


def _parse_groups(value: object) -> str:
    """YAML reads a bare `off` as false."""
    word = "off" if value is False else value
    problem = fields.choice_problem(word, ("auto", "off"), "a way to use control groups")
    if problem:
        raise ValueError(problem)
    return str(word)


Groups = Annotated[str, *fields.checked(_parse_groups, {"enum": ["auto", "off", False]})]


class Memory(Settings):
    vram: Vram = section(Vram, "Each GPU.")
    host: Host = section(Host, "RAM and swap.")
    placement: Placement = section(Placement, "How backends take turns.")
    cgroups: Groups = setting(
        "auto", "A control group for each backend: auto where the system lets the daemon, or off."
    )
