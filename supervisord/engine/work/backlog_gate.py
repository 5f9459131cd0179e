"""What keeps the durable jobs of a model from being begun at all."""

from supervisord.core.dispatch import Reject, choose
from supervisord.core.errors import ModelNotFoundError
from supervisord.core.job import Job, Submission
from supervisord.engine.dispatcher import Dispatcher
from supervisord.ports import Store


class Gate:
    """Open for a model where a job for it that came now would be taken into the queue, and could be written down."""

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self.closed = ""  # why nothing is begun any more

    def name(self, model: str) -> str | None:
        """The main name of a model; None: nobody serves it."""
        try:
            return self._dispatcher.outlook.routes.named(model).name
        except ModelNotFoundError:
            return None

    @property
    def problem(self) -> str:
        """What the store has, in words: what becomes of a job could not be kept. Empty: nothing."""
        return self._store.state().problem

    def why_not(self, model: str) -> str:
        """Why no job for a model is begun now, but for the store; empty: they are."""
        if self.closed or self._dispatcher.held:
            return self.closed or self._dispatcher.held
        outlook = self._dispatcher.outlook
        try:
            route = outlook.routes.named(model)
        except ModelNotFoundError as gone:
            return gone.message
        sample = Job("", Submission("", model, b""), 0.0, 0.0, 0.0, route=route.name)
        choice = choose(sample, route, outlook.views(route, sample))
        return choice.error.message if isinstance(choice, Reject) else ""

    def slots(self, model: str) -> int:
        """How many jobs the backends of a model can serve at once."""
        outlook = self._dispatcher.outlook
        return sum(backend.spec.slots for backend in outlook.backends_of(outlook.routes.named(model)))

    def waits_for(self, job_id: str) -> str:
        """What a job in the queue waits for, in words."""
        return self._dispatcher.waits_for(job_id)
