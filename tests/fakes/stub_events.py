"""What the stub says in Anthropic's format and in that of Responses: as llama-server does (xllamacpp 2026.10)."""

import json
import os

from tests.fakes import stub_answers as answers


def event(name: str, **more: object) -> bytes:
    """A server-sent event as llama-server writes it."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), compact({"type": name, **more}))


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class MessagesWording:
    """Anthropic's. In a stream the prompt's tokens are told at the begin, those of the answer at the end."""

    def __init__(self, number: int, model: str, prompt: int) -> None:
        self._message = {
            "id": f"chatcmpl-{number:032d}",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"cache_read_input_tokens": 0, "input_tokens": prompt, "output_tokens": 0},
        }

    def plain(self, content: bytes, reason: bytes, counts: answers.Counts) -> bytes:
        usage = {"cache_read_input_tokens": 0, "input_tokens": counts.prompt, "output_tokens": counts.predicted}
        text = {"type": "text", "text": json.loads(content)}
        return compact({**self._message, "content": [text], "stop_reason": _stop(reason), "usage": usage})

    def first(self) -> bytes:
        block = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        return event("message_start", message=self._message) + block

    def token(self, content: bytes) -> bytes:
        return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":' + (
            b'{"type":"text_delta","text":%b}}\n\n' % content
        )

    def last(self, reason: bytes, counts: answers.Counts, *, include_usage: bool) -> bytes:
        del include_usage
        delta = {"stop_reason": _stop(reason), "stop_sequence": None}
        told = event("message_delta", delta=delta, usage={"output_tokens": counts.predicted})
        return event("content_block_stop", index=0) + told + event("message_stop")


def _stop(reason: bytes) -> str:
    return "max_tokens" if reason == b"length" else "end_turn"


class ResponsesWording:
    """That of Responses: no sequence numbers, few of the members that OpenAI's have, and no word of a cut answer."""

    def __init__(self, number: int, model: str, prompt: int) -> None:
        del prompt
        self._id = f"resp_{number:032d}"
        self._item = f"msg_{os.getpid()}_{number}"  # as good as random: another process never says the same
        self._model = model
        self._said = b""

    def plain(self, content: bytes, reason: bytes, counts: answers.Counts) -> bytes:
        del reason
        return compact(self._whole(json.loads(content), counts))

    def first(self) -> bytes:
        begun = {"id": self._id, "object": "response", "status": "in_progress"}
        item = {"content": [], "id": self._item, "role": "assistant", "status": "in_progress", "type": "message"}
        return b"".join(
            (
                event("response.created", response=begun),
                event("response.in_progress", response=begun),
                event("response.output_item.added", item=item),
                event("response.content_part.added", item_id=self._item, part={"type": "output_text", "text": ""}),
            )
        )

    def token(self, content: bytes) -> bytes:
        self._said += content[1:-1]
        return b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","item_id":"%b",' % (
            self._item.encode()
        ) + (b'"delta":%b}\n\n' % content)

    def last(self, reason: bytes, counts: answers.Counts, *, include_usage: bool) -> bytes:
        del reason, include_usage
        text = json.loads(b'"' + self._said + b'"')
        whole = self._whole(text, counts)
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
        return b"".join(
            (
                event("response.output_text.done", item_id=self._item, text=text),
                event("response.content_part.done", item_id=self._item, part=part),
                event("response.output_item.done", item=self._said_item(text)),
                event("response.completed", response=whole, timings=json.loads(counts.timings())),
            )
        )

    def _whole(self, text: str, counts: answers.Counts) -> dict[str, object]:
        usage = {"input_tokens": counts.prompt, "output_tokens": counts.predicted}
        usage["total_tokens"] = counts.prompt + counts.predicted
        return {
            "id": self._id,
            "object": "response",
            "created_at": answers.CREATED,
            "status": "completed",
            "model": self._model,
            "output": [self._said_item(text)],
            "usage": {**usage, "input_tokens_details": {"cached_tokens": 0}},
        }

    def _said_item(self, text: str) -> dict[str, object]:
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
        return {"type": "message", "status": "completed", "id": self._item, "content": [part], "role": "assistant"}
