"""/openapi.json: what the public address offers, in the words that tools read."""

from collections.abc import Mapping, Sequence

import msgspec

from supervisord.api.anthropic_models import LONGEST_PAGE
from supervisord.api.door import Request, Response
from supervisord.api.openapi_schemas import SCHEMAS, TEXT, Schema, page_of, ref, request_of
from supervisord.api.router import Table
from supervisord.core.job import JobStatus, Priority
from supervisord.core.request import ENDPOINTS, FORMS
from supervisord.core.terms import Origin

PATH = "/openapi.json"
_JSON, _EVENTS, _BYTES = "application/json", "text/event-stream", "application/octet-stream"
_TEXT = "text/plain"
_ERROR = {"description": "Why not.", "content": {_JSON: {"schema": ref("Error")}}}

Operation = Mapping[str, object]


def document(version: str) -> Mapping[str, object]:
    """OpenAPI 3.1, for this version of the daemon."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llm-supervisord",
            "version": version,
            "description": "Local LLM servers behind one queue and one address. All of docs/http.md in short.",
        },
        "paths": {path: dict(operations) for path, operations in _paths().items()},
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }


class OpenApiDoor:
    """Serves the document; it is made once, when it is first asked for."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._encoded = b""
        self.table: Table = {PATH: {"GET": self._show}}

    def _show(self, request: Request) -> Response:
        del request
        if not self._encoded:
            self._encoded = msgspec.json.encode(document(self._version))
        return Response(200, self._encoded)


# --- the paths -------------------------------------------------------------------------------------------------------


def _paths() -> Mapping[str, Mapping[str, Operation]]:
    return {
        **_served(),
        **_transcribed(),
        **_responses(),
        **_jobs(),
        **_files(),
        **_batches("/v1/batches", "batch_id", ref("BatchRequest"), _OPENAI_PAGE),
        **_batches("/v1/messages/batches", "id", ref("MessageBatchRequest"), _ANTHROPIC_PAGE),
        **_message_results(),
        **_about(),
    }


def _served() -> Mapping[str, Mapping[str, Operation]]:
    """What backends answer."""
    return {
        endpoint.path: {
            "post": _operation(
                f"Have a backend answer {endpoint.path}",
                body=request_of(endpoint),
                parameters=_QUEUED,
                answers={
                    "200": _answer(
                        "The backend's own answer.", ref("Answer"), *([_EVENTS] if endpoint.streams else [])
                    ),
                    "202": _answer("Taken as a job: Prefer: respond-async.", ref("Job")),
                },
            )
        }
        for endpoint in ENDPOINTS.values()
    }


def _transcribed() -> Mapping[str, Mapping[str, Operation]]:
    """What backends answer to a form."""
    told = {"200": _answer("The backend's own answer: JSON, or a text.", ref("Answer"), _TEXT)}
    form = {"required": True, "content": {"multipart/form-data": {"schema": ref("AudioForm")}}}
    asked = _operation("Have a backend write down a sound", parameters=_QUEUED, answers=told)
    return {path: {"post": {**asked, "requestBody": form}} for path in sorted(FORMS)}


def _responses() -> Mapping[str, Mapping[str, Operation]]:
    one = _in_path("id")
    stream = (
        _in_query("stream", {"enum": ["true", "false"]}),
        _in_query("starting_after", {"type": "integer", "minimum": 0}),
    )
    told = {"200": _answer("The response.", ref("Answer"), _EVENTS)}
    return {
        "/v1/responses/{id}": {
            "get": _operation("Read a response in the background", parameters=(one, *stream), answers=told),
            "delete": _operation("Forget it", parameters=(one,), answers={"200": _answer("Gone.", ref("Deleted"))}),
        },
        "/v1/responses/{id}/cancel": {"post": _operation("Cancel it", parameters=(one,), answers=told)},
    }


def _jobs() -> Mapping[str, Mapping[str, Operation]]:
    one, wait = _in_path("job_id"), _in_query("wait", {"type": "integer", "minimum": 0, "maximum": 600})
    job = {"200": _answer("The job.", ref("Job"))}
    filters = (
        _in_query("status", {"enum": [status.value for status in JobStatus]}),
        _in_query("model", TEXT),
        _in_query("since", {"type": "number"}),
        _in_query("origin", {"enum": [origin.value for origin in Origin]}),
        _in_query("batch", TEXT),
        _in_query("limit", {"type": "integer", "minimum": 0, "maximum": 100}),
        _in_query("after", TEXT),
    )
    return {
        "/v1/jobs": {
            "post": _operation(
                "Submit a job",
                body=ref("JobRequest"),
                parameters=_QUEUED,
                answers={"202": _answer("Accepted: it survives the daemon.", ref("Job"))},
            ),
            "get": _operation(
                "List jobs", parameters=filters, answers={"200": _answer("Newest first.", page_of(ref("Job")))}
            ),
        },
        "/v1/jobs/{job_id}": {"get": _operation("Show a job, or wait for it", parameters=(one, wait), answers=job)},
        "/v1/jobs/{job_id}/result": {
            "get": _operation(
                "Read its result",
                parameters=(one, wait),
                answers={"200": _answer("The backend's own answer.", ref("Answer"))},
            )
        },
        "/v1/jobs/{job_id}/output": {
            "get": _operation(
                "Read what a backend answered, also where the job failed for it",
                parameters=(one,),
                answers={"200": _answer("Its bytes.", TEXT)},
            )
        },
        "/v1/jobs/{job_id}/events": {
            "get": _operation(
                "Follow it to its end",
                parameters=(one,),
                answers={"200": {"description": "Events.", "content": {_EVENTS: {"schema": TEXT}}}},
            )
        },
        "/v1/jobs/{job_id}/cancel": {"post": _operation("Cancel it", parameters=(one,), answers=job)},
    }


def _files() -> Mapping[str, Mapping[str, Operation]]:
    one = _in_path("file_id")
    listing = (
        _in_query("purpose", TEXT),
        _in_query("order", {"enum": ["asc", "desc"]}),
        _in_query("limit", {"type": "integer", "minimum": 1, "maximum": 10_000}),
        _in_query("after", TEXT),
    )
    upload = _operation("Upload a file", answers={"200": _answer("The file.", ref("File"))})
    form = {"required": True, "content": {"multipart/form-data": {"schema": ref("FileUpload")}}}
    return {
        "/v1/files": {
            "post": {**upload, "requestBody": form},
            "get": _operation(
                "List files", parameters=listing, answers={"200": _answer("Some.", page_of(ref("File")))}
            ),
        },
        "/v1/files/{file_id}": {
            "get": _operation("Show a file", parameters=(one,), answers={"200": _answer("The file.", ref("File"))}),
            "delete": _operation("Delete it", parameters=(one,), answers={"200": _answer("Gone.", ref("Deleted"))}),
        },
        "/v1/files/{file_id}/content": {
            "get": _operation(
                "Read it",
                parameters=(one,),
                answers={"200": {"description": "Its bytes.", "content": {_BYTES: {"schema": TEXT}}}},
            )
        },
    }


def _batches(
    path: str, name: str, begun_with: Schema, listing: Sequence[Mapping[str, object]]
) -> Mapping[str, Mapping[str, Operation]]:
    """OpenAI's, or Anthropic's."""
    one, batch = _in_path(name), {"200": _answer("The batch.", ref("Batch"))}
    some = {"200": _answer("Newest first.", page_of(ref("Batch")))}
    return {
        path: {
            "post": _operation("Begin a batch", body=begun_with, parameters=(_ONCE,), answers=batch),
            "get": _operation("List batches", parameters=listing, answers=some),
        },
        f"{path}/{{{name}}}": {
            "get": _operation("Show a batch", parameters=(one,), answers=batch),
            "delete": _operation("Forget it", parameters=(one,), answers={"200": _answer("Gone.", ref("Deleted"))}),
        },
        f"{path}/{{{name}}}/cancel": {"post": _operation("Cancel it", parameters=(one,), answers=batch)},
    }


def _message_results() -> Mapping[str, Mapping[str, Operation]]:
    lines = {"description": "A JSON object a line.", "content": {"application/x-jsonl": {"schema": TEXT}}}
    reading = _operation("Read the results", parameters=(_in_path("id"),), answers={"200": lines})
    return {"/v1/messages/batches/{id}/results": {"get": reading}}


def _about() -> Mapping[str, Mapping[str, Operation]]:
    health = {"200": _answer("Well.", ref("Health")), "503": _answer("Not ready.", ref("Health"))}
    models = {"200": _answer("Every name and alias.", page_of(ref("Model")))}
    return {
        "/v1/models": {"get": _operation("List models", answers=models)},
        "/v1/models/{model}": {
            "get": _operation(
                "Show a model", parameters=(_in_path("model"),), answers={"200": _answer("It.", ref("Model"))}
            )
        },
        "/healthz": {"get": _operation("Whether the daemon is well", answers=health)},
        "/readyz": {"get": _operation("Whether a backend can serve", answers=health)},
        PATH: {"get": _operation("This document", answers={"200": _answer("It.", ref("Answer"))})},
    }


# --- their parts -----------------------------------------------------------------------------------------------------


def _operation(
    summary: str,
    *,
    answers: Mapping[str, object],
    body: Schema | None = None,
    parameters: Sequence[Mapping[str, object]] = (),
) -> Operation:
    told: dict[str, object] = {"summary": summary, "responses": {**answers, "default": _ERROR}}
    if parameters:
        told["parameters"] = list(parameters)
    if body is not None:
        told["requestBody"] = {"required": True, "content": {_JSON: {"schema": body}}}
    return told


def _answer(description: str, schema: Schema, *others: str) -> Mapping[str, object]:
    content: dict[str, object] = {_JSON: {"schema": schema}}
    return {"description": description, "content": content | {kind: {"schema": TEXT} for kind in others}}


def _in_path(name: str) -> Mapping[str, object]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _in_query(name: str, schema: Schema) -> Mapping[str, object]:
    return {"name": name, "in": "query", "schema": schema}


def _in_header(name: str, schema: Schema) -> Mapping[str, object]:
    return {"name": name, "in": "header", "schema": schema}


_ONCE = _in_header("Idempotency-Key", {"type": "string", "minLength": 1, "maxLength": 255})
_QUEUED = (
    _in_header("X-Priority", {"enum": [priority.label for priority in Priority]}),
    _in_header("X-Deadline", {"type": "number", "exclusiveMinimum": 0, "description": "Seconds from now."}),
    _in_header("X-Client", TEXT),
    _in_header("Prefer", {"type": "string", "description": "respond-async, wait=SECONDS"}),
    _ONCE,
)
_OPENAI_PAGE = (_in_query("limit", {"type": "integer", "minimum": 1, "maximum": 100}), _in_query("after", TEXT))
_ANTHROPIC_PAGE = (
    _in_query("limit", {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE}),
    _in_query("after_id", TEXT),
    _in_query("before_id", TEXT),
)
