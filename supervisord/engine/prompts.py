"""The prompts of a request, as the JSON in which they came: nothing of them is decoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from supervisord.core.job import Submission
from supervisord.core.request import ENDPOINTS

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
_PROMPT = ENDPOINTS[TEXT].payload

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])

# Of a list of prompts that is looked at one by one: some 25 MB of words. 64 MiB of empty lists would take 2 GB.
MOST_COMMAS = 500_000

# Pictures and sounds within a chat: many bytes that are few tokens, and no text.
_MEDIA = (b";base64,", b'"input_audio"')


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a tokenizer is asked about. `members` are those of a request to `endpoint`, as JSON."""

    endpoint: str
    members: Mapping[str, bytes]

    @property
    def text(self) -> bytes:
        """The JSON that holds the words; empty where there is none."""
        return self.members.get(ENDPOINTS[self.endpoint].payload, b"")

    @property
    def is_text(self) -> bool:
        """Whether it is one prompt, and words all through: no numbers of tokens, no pictures or sounds."""
        if self.endpoint == TEXT:
            return self.text.startswith(b'"')
        return self.endpoint == CHAT and not any(words in self.text for words in _MEDIA)

    def beginning(self, size: int) -> "Prompt":
        """The first bytes of its JSON, taken for plain text: not quite the same tokens, and about as many."""
        plain = self.text[:size].decode("utf-8", "ignore")
        return Prompt(TEXT, {_PROMPT: msgspec.json.encode(plain)})


def prompts_of(submission: Submission) -> tuple[Prompt, ...]:
    """One; or as many as the list of `/v1/completions` holds: each of them gets answers of its own."""
    members = {name: bytes(raw) for name, raw in _MEMBERS.decode(submission.body).items()}
    one = Prompt(submission.endpoint, members)
    if one.endpoint != TEXT or not one.text.startswith(b"["):
        return (one,)
    if one.text.count(b",") > MOST_COMMAS:
        return (one,)
    elements = [bytes(raw) for raw in _ELEMENTS.decode(one.text)]
    if not any(element.startswith((b'"', b"[")) for element in elements):  # the tokens of a single prompt
        return (one,)
    return tuple(replace(one, members={**members, _PROMPT: element}) for element in elements)


def together(prompts: Sequence[Prompt]) -> Prompt:
    """Several prompts of `/v1/completions` as one of about as many tokens, for a single question."""
    first = prompts[0]
    if len(prompts) == 1:
        return first
    texts = [prompt.text for prompt in prompts]
    opening, closing, seam = (b'"', b'"', b" ") if texts[0].startswith(b'"') else (b"[", b"]", b",")
    if not all(text.startswith(opening) for text in texts):  # words here and numbers there: no question fits
        return replace(first, members={})
    joined = seam.join(text.strip()[1:-1] for text in texts)
    return replace(first, members={**first.members, _PROMPT: opening + joined + closing})
