"""Models as Anthropic's clients know them: /v1/models, asked for with the header `anthropic-version`."""

from collections.abc import Mapping, Sequence

from supervisord.api import query
from supervisord.api.door import Request, Response, json_answer
from supervisord.core.errors import InvalidRequestError
from supervisord.core.routing import Route
from supervisord.engine.supervisor import Supervisor

USUAL_PAGE, LONGEST_PAGE = 20, 1000  # as Anthropic documents them
_UNKNOWN_DATE = "1970-01-01T00:00:00Z"  # what Anthropic says where the date is not known

Entry = Mapping[str, object]


def listing(supervisor: Supervisor, request: Request, routes: Sequence[Route]) -> Response:
    """A page of every name and alias of `routes`, in their order. Raises InvalidRequestError."""
    asked = query.asked(request.query)
    entries = [entry(supervisor, route, name) for route in routes for name in route.names]
    page, more = _page(entries, asked)
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return json_answer({"data": page, "has_more": more, "first_id": first, "last_id": last})


def entry(supervisor: Supervisor, route: Route, name: str) -> Entry:
    """One model by one of its names."""
    backends = [supervisor.backends[backend] for backend in (*route.backends, *route.last_resort)]
    contexts = [context for backend in backends if (context := backend.known_context) is not None]
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": _UNKNOWN_DATE,
        "lifecycle": "active",
        "max_input_tokens": max(contexts, default=None),
        "max_tokens": route.parameters.max_tokens_limit,
    }


def _page(entries: Sequence[Entry], asked: Mapping[str, str]) -> tuple[Sequence[Entry], bool]:
    """A part of the list, and whether there is more in the direction in which it is read."""
    limit = _limit(asked.get("limit", ""))
    ids = [str(known["id"]) for known in entries]
    if before := asked.get("before_id"):
        end = _place(ids, "before_id", before)
        return entries[max(0, end - limit) : end], end > limit
    after = asked.get("after_id")
    begin = _place(ids, "after_id", after) + 1 if after else 0
    return entries[begin : begin + limit], begin + limit < len(entries)


def _place(ids: Sequence[str], member: str, wanted: str) -> int:
    if wanted in ids:
        return ids.index(wanted)
    raise InvalidRequestError(f"{member} names no model. GET /v1/models lists them.", param=member)


def _limit(text: str) -> int:
    if not text:
        return USUAL_PAGE
    found = query.digits(text, 1, LONGEST_PAGE)
    if found is not None:
        return found
    raise InvalidRequestError(f"limit must be a whole number from 1 to {LONGEST_PAGE}.", param="limit")
