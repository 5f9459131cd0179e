"""The values that OpenAPI's document tells of: what requests may say, and what answers hold."""

from collections.abc import Mapping

from supervisord.core.job import FailureReason, JobStatus, Priority
from supervisord.core.output_check import MOST_RETRIES
from supervisord.core.record import BatchStatus
from supervisord.core.request import ENDPOINTS, Endpoint, JsonKind
from supervisord.core.terms import Origin

Schema = Mapping[str, object]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
WHOLE: Schema = {"type": "integer"}
FIGURE: Schema = {"type": "number"}
MOMENT: Schema = {"type": "number", "description": "Seconds since the epoch."}
ANY_OBJECT: Schema = {"type": "object", "additionalProperties": True}


def ref(name: str) -> Schema:
    """A schema of the document by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def listed(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def of(properties: Mapping[str, Schema], *required: str, others: bool = False) -> Schema:
    """An object; `others`: it may have more members than these."""
    told = {"type": "object", "properties": properties, "additionalProperties": others}
    return {**told, "required": list(required)} if required else told


def page_of(item: Schema) -> Schema:
    return of(
        {"object": TEXT, "data": listed(item), "first_id": or_null(TEXT), "last_id": or_null(TEXT), "has_more": FLAG},
        "data",
        others=True,
    )


_KINDS: Mapping[JsonKind, Schema] = {
    JsonKind.STRING: TEXT,
    JsonKind.ARRAY: listed({}),
    JsonKind.OBJECT: ANY_OBJECT,
}


def request_of(endpoint: Endpoint) -> Schema:
    """The body of an endpoint that a backend serves: what is read of it here; all else goes through as it came."""
    payload = {"anyOf": [_KINDS[kind] for kind in sorted(endpoint.kinds)]}
    members: dict[str, Schema] = {"model": {"type": "string", "minLength": 1, "maxLength": 256}}
    members[endpoint.payload] = payload
    members["stream"] = {"type": "boolean", "default": False}
    members["temperature"] = or_null(FIGURE)
    members |= {length: or_null(WHOLE) for length in endpoint.lengths}
    return of(members, "model", endpoint.payload, others=True)


METADATA: Schema = {
    "type": "object",
    "maxProperties": 16,
    "propertyNames": {"maxLength": 64},
    "additionalProperties": {"type": "string", "maxLength": 512},
}
_CHECK: Schema = {
    "description": "Check the answer against its JSON Schema: that of the request, or one of its own.",
    "anyOf": [
        FLAG,
        of({"schema": ANY_OBJECT, "retries": {"type": "integer", "minimum": 0, "maximum": MOST_RETRIES}}),
    ],
}

SCHEMAS: Mapping[str, Schema] = {
    "Error": of(
        {
            "error": of(
                {"message": TEXT, "type": TEXT, "param": or_null(TEXT), "code": or_null(TEXT)},
                "message",
                "type",
                others=True,
            )
        },
        "error",
        others=True,
    ),
    "JobRequest": of(
        {
            "endpoint": {"type": "string", "enum": list(ENDPOINTS)},
            "body": {"type": "object", "description": "The request of that endpoint; not a stream."},
            "priority": {"enum": [priority.label for priority in Priority]},
            "deadline": {"type": "number", "exclusiveMinimum": 0, "description": "Seconds from now."},
            "max_attempts": {"type": "integer", "minimum": 1, "maximum": 20},
            "metadata": METADATA,
            "validate_output": _CHECK,
        },
        "endpoint",
        "body",
    ),
    "Job": of(
        {
            "id": TEXT,
            "object": {"const": "job"},
            "status": {"enum": [status.value for status in JobStatus]},
            "endpoint": TEXT,
            "model": TEXT,
            "priority": {"enum": [priority.label for priority in Priority]},
            "client": TEXT,
            "origin": or_null({"enum": [origin.value for origin in Origin]}),
            "batch": or_null(TEXT),
            "custom_id": or_null(TEXT),
            "metadata": ANY_OBJECT,
            "created_at": MOMENT,
            "started_at": or_null(MOMENT),
            "finished_at": or_null(MOMENT),
            "deadline_at": or_null(MOMENT),
            "attempts": WHOLE,
            "max_attempts": or_null(WHOLE),
            "backend": or_null(TEXT),
            "position": or_null({"type": "integer", "description": "In the queue, from 1; null: not in it yet."}),
            "waits_for": TEXT,
            "error": or_null(of({"code": {"enum": ["retried", *FailureReason]}, "message": TEXT}, "code", "message")),
            "http_status": or_null(WHOLE),
            "usage": or_null(ANY_OBJECT),
        },
        "id",
        "status",
    ),
    "BatchRequest": of(
        {
            "input_file_id": TEXT,
            "endpoint": TEXT,
            "completion_window": {"type": "string", "description": "Such as 24h."},
            "metadata": or_null(METADATA),
        },
        "input_file_id",
        "endpoint",
        "completion_window",
    ),
    "MessageBatchRequest": of(
        {"requests": listed(of({"custom_id": TEXT, "params": ANY_OBJECT}, "custom_id", "params"))},
        "requests",
        others=True,
    ),
    "Batch": of({"id": TEXT, "status": {"enum": [status.value for status in BatchStatus]}}, "id", others=True),
    "File": of({"id": TEXT, "bytes": WHOLE, "filename": TEXT, "purpose": TEXT}, "id", others=True),
    "FileUpload": of(
        {"file": {"type": "string", "format": "binary"}, "purpose": {"enum": ["batch"]}}, "file", "purpose"
    ),
    "AudioForm": of(
        {"file": {"type": "string", "format": "binary"}, "model": {"type": "string", "minLength": 1}},
        "file",
        "model",
        others=True,
    ),
    "Model": of({"id": TEXT}, "id", others=True),
    "Deleted": of({"id": TEXT, "deleted": FLAG}, "id", "deleted", others=True),
    "Answer": ANY_OBJECT,
    "Health": ANY_OBJECT,
}
