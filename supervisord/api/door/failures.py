"""What is said of a request whose work ended in an error, as far as anything can still be said."""

import asyncio

from supervisord.api.door.application import Application
from supervisord.api.door.client import HttpClient
from supervisord.api.door.request import Request
from supervisord.core.errors import SupervisorError


def tell(error: SupervisorError, request: Request, client: HttpClient, application: Application) -> None:
    """Whoever has a part of the answer already must not take it for the whole."""
    if client.started:
        client.abort()
    else:
        client.answer(application.told(error, request))


def report(error: Exception, request: Request, client: HttpClient, application: Application) -> None:
    """Hand a bug to the loop's handler, and the client what is left to say."""
    context = {"message": "answering a request failed by a bug", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)
    client.keep_alive = False
    tell(SupervisorError("The daemon failed; its log says how."), request, client, application)
