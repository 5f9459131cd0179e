"""Waits that ended late because the daemon itself did not get to run: nobody is to blame for what they missed."""

LATE_S = 0.25  # timers of a daemon that runs are late by milliseconds; on crowded machines gaps of 3 s were seen
CATCH_UP_S = 3.0  # after one, so that what came meanwhile is read, and everything was looked at once more


class Lateness:
    """Excuses one wait in vain, and not the next: a daemon that is always late has to find hangs too."""

    def __init__(self) -> None:
        self._excused = False

    def met(self) -> None:
        """What was waited for came."""
        self._excused = False

    def excuses(self, late_s: float) -> bool:
        """Whether what a wait missed that ended so late, in seconds, does not count."""
        self._excused = late_s >= LATE_S and not self._excused
        return self._excused
