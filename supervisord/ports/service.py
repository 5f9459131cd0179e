"""The service manager."""

from typing import Protocol


class Notifier(Protocol):
    """The service manager."""

    def ready(self) -> None: ...

    def status(self, text: str) -> None: ...

    def watchdog(self) -> None: ...

    def stopping(self) -> None: ...

    def reloading(self) -> None:
        """A reload has begun; `ready` tells its end."""
        ...

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often the manager wants to be told; None: it does not watch."""
        ...
