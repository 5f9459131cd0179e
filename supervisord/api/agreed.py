"""What is agreed on with a request that outlives its client."""

import msgspec

from supervisord.core.job import Submission
from supervisord.core.terms import MOST_ATTEMPTS, Origin, Terms
from supervisord.engine.agreed import check_in, metadata_in
from supervisord.engine.supervisor import Supervisor

NOTHING = msgspec.Raw()


async def terms_of(
    supervisor: Supervisor,
    origin: Origin,
    wanted: Submission,
    *,
    metadata: msgspec.Raw = NOTHING,
    check: msgspec.Raw = NOTHING,
    max_attempts: int = MOST_ATTEMPTS,
) -> Terms:
    """`metadata` and `check` (`validate_output`) as they came, in JSON. Raises InvalidRequestError."""
    checked = check_in(check)
    if checked is not None:
        await supervisor.check_output(checked, wanted.endpoint, wanted.body, wanted.client)
    deadline = wanted.deadline_s
    return Terms(
        origin,
        deadline_at=None if deadline is None else supervisor.ports.clock.wall() + deadline,
        max_attempts=max_attempts,
        metadata=metadata_in(metadata),
        check=checked,
    )
