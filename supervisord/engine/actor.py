"""One inbox, one writer: an actor runs each event to its end before the next, without a task of its own."""

from collections import deque
from collections.abc import Callable

from supervisord.core.backend import step
from supervisord.core.life import DeadlineReached, Effect, Event
from supervisord.core.state import BackendState, LifePolicy
from supervisord.engine.lateness import CATCH_UP_S, LATE_S
from supervisord.ports import Clock, Timer

Changed = Callable[[BackendState, BackendState], None]


class BackendActor:
    """Holds the state of one backend and is the only one to change it.

    `post` may be called from anywhere on the loop, also from within an effect: the event is then handled next, before
    the outer `post` returns. Effects must be quick; slow work is started and posts its result.
    """

    def __init__(
        self,
        state: BackendState,
        policy: LifePolicy,
        clock: Clock,
        perform: Callable[[Effect], None],
        changed: Changed,
    ) -> None:
        self.state = state
        self.policy = policy
        self._clock = clock
        self._perform = perform
        self._changed = changed
        self._inbox: deque[Event] = deque()
        self._working = False
        self._timer: Timer | None = None
        self._timer_at: float | None = None
        self._excused: float | None = None  # the deadline that passed while the daemon did not run
        self._not_before = 0.0  # no deadline counts sooner: the daemon has to catch up with what happened

    def post(self, event: Event) -> None:
        """Hand an event over."""
        self._inbox.append(event)
        if self._working:
            return
        self._working = True
        try:
            while self._inbox:
                self._handle(self._inbox.popleft())
        finally:
            self._working = False

    def _handle(self, event: Event) -> None:
        before = self.state
        self.state, effects = step(before, event, self.policy, self._clock.monotonic())
        self._arm()
        for effect in effects:
            self._perform(effect)
        if self.state is not before:
            self._changed(before, self.state)

    def _arm(self) -> None:
        """Keep one timer for the deadline; it is moved later only when it fires, since deadlines move often."""
        deadline = self.state.deadline
        if deadline is None:
            return
        if self._timer is not None and self._timer_at is not None and self._timer_at <= deadline:
            return
        self._cancel_timer()
        self._timer_at = max(deadline, self._not_before, self._clock.monotonic())
        self._timer = self._clock.call_at(self._timer_at, self._fired)

    def _fired(self) -> None:
        now, due = self._clock.monotonic(), self._timer_at
        self._timer = self._timer_at = None
        if self.state.deadline is None or due is None:
            return
        if now < self.state.deadline:
            self._arm()
        elif now - due >= LATE_S and self._excused != self.state.deadline:
            self._excused, self._not_before = self.state.deadline, now + CATCH_UP_S
            self._arm()
        else:
            self.post(DeadlineReached())

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timer_at = None

    def close(self) -> None:
        """No timer fires any more."""
        self._cancel_timer()
