"""What clients sent and models answered, where servers print it into their logs."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from supervisord.core.incident import LOG_LINES
from supervisord.core.redact_log_lines import begins_traceback, goes_on, head_of, tells_the_end
from supervisord.core.redact_names import PROMPT, REMOVED, SECRET
from supervisord.core.redact_shapes import opens_private_key

# What a server prints of a request or of its answer, each as some version of llama.cpp or vLLM writes it with logging
# of requests on. From there to the end of the line it is the client's, and so are the lines that go on with it.
_PROMPTS = re.compile(
    r"(?i)(?:['\"]?\b(?:prompts?|messages|content|input|inputs|input_text|generated_text|output_text|system_prompt|"
    r"reasoning_content|prompt_token_ids|output_token_ids|token_ids)\b\\?['\"]?\s{0,20}[:=]\s{0,20}(?=\S)|"
    r"['\"](?:text|output|response|query|suffix|documents|arguments|generated|completion)\\?['\"]\s{0,20}:\s{0,20}(?=\S)|"
    r"\b(?:request|response|body|output|generated response[^:]{0,80}):\s{0,20}(?=[\[{'\"])|"
    r"\bparsed message:\s{0,20}|\bparsing (?:chat message|input)[^:]{0,80}:\s{0,20}|\bprompt token {1,8}\d{1,9}: |"
    r"\bnext token: )"
)
# A command line in one text: quoted, or up to the next flag. -p has many meanings: only what is quoted behind it.
_PROMPT_FLAG = re.compile(
    r"((?<![\w-])(?:--(?:system-)?prompt|-sys)[ \t]{1,8})"
    r"(?!\[removed\])(?:\"[^\"\r\n]*\"?|'[^'\r\n]*'?|[^\s-][^\r\n]*?(?=\s-{1,2}[a-zA-Z]|[\r\n]|\Z))|"
    r"((?<![\w-])-p[ \t]{1,8})(?:\"[^\"\r\n]*\"?|'[^'\r\n]*'?)"
)


def cut_prompt(text: str, removed: Counter[str]) -> str:
    """`text` without what a client sent, or was answered, and that counted in `removed`."""
    text, count = _PROMPT_FLAG.subn(lambda match: f"{match[1] or match[2]}{REMOVED}", text)
    if count:
        removed[PROMPT] += count
    found = _PROMPTS.search(text)
    if found is None or text[found.end() :] in ("", REMOVED):
        return text
    removed[PROMPT] += 1
    return f"{text[: found.end()]}{REMOVED}"


def owners_of(lines: Sequence[str]) -> Sequence[str]:
    """Of each line of a log: PROMPT or SECRET, where it only goes on with a prompt or a private key that began in an
    earlier one; else nothing."""
    log = _Log(cut=len(lines) >= LOG_LINES and any(head_of(line) for line in lines))
    return [log.belongs_to(line) for line in lines]


@dataclass(slots=True)
class _Log:
    """Where in a log we are, line by line.

    `went_on`: a prompt took more than its line. Whatever comes then without the head of a line may be more of it: a
    line with a head may be the client's too, who asks what a log means. `cut`: nothing with a head has come yet of a
    log whose beginning is not known, and which has such lines: it may begin within a prompt.
    """

    cut: bool

    head: str = ""  # of the line that the prompt began in
    open: bool = False
    went_on: bool = False
    traced: bool = False
    in_key: bool = False

    def belongs_to(self, line: str) -> str:
        """SECRET or PROMPT, where the whole of `line` is one; else nothing."""
        if self._is_in_key(line):
            return SECRET
        head = head_of(line)
        self.cut = self.cut and not head
        if self._is_in_prompt(line, head):
            return PROMPT
        if head and not self._goes_on(head):
            self.open = self.traced = False
        if _PROMPTS.search(line) is not None:
            self.open, self.head = True, head
        return ""

    def _is_in_key(self, line: str) -> bool:
        was_in = self.in_key and not head_of(line)
        self.in_key = opens_private_key(line, inside=was_in)
        return was_in

    def _is_in_prompt(self, line: str, head: str) -> bool:
        if not (self.open or self.went_on or self.cut):
            return False
        if tells_the_end(line, traced=self.traced):
            self.traced = self.traced or begins_traceback(line)
            return False
        if head and not self._goes_on(head):
            return False
        self.went_on = self.went_on or self.open
        return True

    def _goes_on(self, head: str) -> bool:
        return self.open and goes_on(head, self.head)
