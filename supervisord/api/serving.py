"""A request that its client waits for: run as a job, and answered as that client reads it."""

from supervisord.api.anthropic_errors import told_to
from supervisord.api.door import Request, Response
from supervisord.core.errors import SupervisorError
from supervisord.core.job import Submission
from supervisord.engine.gateway import Gateway
from supervisord.ports import Client


async def serve(gateway: Gateway, request: Request, wanted: Submission, client: Client) -> Response | None:
    """Answer through `client`; or what is to be answered where nothing has reached it."""
    job_ids: list[str] = []
    try:
        await gateway.serve(wanted, client, job_ids.append)
    except SupervisorError as error:
        return told_to(request, error, job_ids[0] if job_ids else None)
    return None
