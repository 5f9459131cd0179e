"""What is served on the TCP address: all doors behind one border."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from supervisord.api import errors
from supervisord.api.anthropic_errors import told_to
from supervisord.api.door import Request, Response, Taking, Upload, Work
from supervisord.api.guard import Doorkeeper
from supervisord.api.router import Handler, Router, Table
from supervisord.core.errors import InvalidRequestError, SupervisorError, UnsupportedMediaTypeError


class PublicDoor:
    """A `door.Application` over the tables of several doors."""

    def __init__(self, tables: Sequence[Table], doorkeeper: Doorkeeper) -> None:
        self._doorkeeper = doorkeeper
        self.router = Router(tables)

    def answer(self, request: Request) -> Response | Work:
        """See `door.Application`."""
        found = self.find(request)
        if isinstance(found, Response):
            return found
        handler, request = found
        try:
            return handler(request)
        except SupervisorError as error:
            return told_to(request, error)

    def late(self, head: Request) -> Response | Taking | None:
        """See `door.Application`."""
        found = self.find(head)
        if isinstance(found, Response):
            return found
        handler, head = found
        return Taking(handler, head) if isinstance(handler, Upload) else None

    def told(self, error: SupervisorError, head: Request | None = None) -> Response:
        """See `door.Application`."""
        return errors.response(error) if head is None else told_to(head, error)

    def find(self, request: Request) -> tuple[Handler, Request] | Response:
        """Who handles a request, or why nobody does: as far as its head can tell."""
        try:
            request = self._doorkeeper.admit(request)
            _check_head(request)
        except SupervisorError as error:
            return told_to(request, error)
        path = request.path
        found = self.router.find(path)
        if found is None:
            return told_to(request, errors.no_route(request.method, path))
        handler = found.methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            told = told_to(request, errors.wrong_method(request.method, path, found.methods))
            return replace(told, headers=(*told.headers, ("allow", ", ".join(sorted(found.methods)))))
        return handler, msgspec.structs.replace(request, params=found.params) if found.params else request


def _check_head(request: Request) -> None:
    """Raises InvalidRequestError for what a head asks for in vain."""
    headers = request.headers
    if "expect" in headers and headers["expect"].lower() != "100-continue":
        raise InvalidRequestError("The only expectation that can be met is 100-continue.", param="Expect")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaTypeError("Bodies are taken as they are: send this one uncompressed.")
