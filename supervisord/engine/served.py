"""Whether a submission could be run at all, as the daemon is configured now."""

from supervisord.core.job import Submission
from supervisord.engine.body import shaped
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.permits import Permits


class Served:
    """What its client may use, and somebody is configured to serve."""

    def __init__(self, dispatcher: Dispatcher, permits: Permits) -> None:
        self._dispatcher = dispatcher
        self._permits = permits

    def check(self, submission: Submission) -> None:
        """Raises ModelNotFoundError, ModelForbiddenError or TokenLimitError."""
        route = self._dispatcher.outlook.routes.named(submission.model)
        self._permits.check(submission.client, route.name)
        if not route.parameters.changes_nothing:
            shaped(route.parameters, submission)
