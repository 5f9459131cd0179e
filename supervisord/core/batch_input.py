"""The lines of a batch's input, one after the other: each a submission, or what is wrong with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from supervisord.core.errors import InvalidRequestError
from supervisord.core.job import Submission
from supervisord.core.output_check import PARAM
from supervisord.core.record import LineError
from supervisord.core.request import ENDPOINTS, Value, submission
from supervisord.core.terms import OutputCheck

LONGEST_LINE = 16 * 1024 * 1024  # bytes: some pictures in base64; three copies of it are in memory while it is read
LONGEST_CUSTOM_ID = 256  # characters; Anthropic's are 64, OpenAI tells no limit
MOST_ERRORS = 100  # that are listed; of the rest the number is told


@dataclass(frozen=True, slots=True)
class Line:
    """What a line says, decoded as far as it is looked at. Its number counts from 1, blank lines included.

    Members that are missing, or are no text, are None. `members` are those of its body, as `core.request` wants them.
    `check` is what it asks for with `validate_output`.
    """

    number: int
    custom_id: str | None
    method: str | None
    url: str | None
    body: bytes | None
    members: Mapping[str, Value]
    check: OutputCheck | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """A good line. Whether its answer could be checked as it asks has still to be seen."""

    number: int
    custom_id: str
    submission: Submission
    check: OutputCheck | None = None


class Input:
    """The input of one batch. `known` raises InvalidRequestError for what no backend is configured to serve.

    All submissions of a batch are of class `batch`, and of the client whose batch it is.
    """

    def __init__(self, endpoint: str, client: str, most: int, known: Callable[[Submission], None]) -> None:
        self._endpoint = ENDPOINTS[endpoint]
        self._headers = {"x-priority": "batch", "x-client": client}
        self._most = most
        self._known = known
        self._seen: dict[str, int] = {}
        self.errors: list[LineError] = []
        self._unlisted = 0

    @property
    def total(self) -> int:
        """Lines with an id of their own."""
        return len(self._seen)

    @property
    def is_full(self) -> bool:
        """Whether it has more lines than a batch may have: the rest need not be looked at."""
        return len(self._seen) > self._most

    def check(self, line: Line) -> Submitted | None:
        """A line as it is submitted; None: it is wrong, and that was noted."""
        problem = self._problem(line)
        if problem is not None:
            self.refuse(problem)
            return None
        try:
            wanted = self._submitted(line)
        except InvalidRequestError as error:
            self.refuse(_error_in_body(error, line.number))
            return None
        return Submitted(line.number, line.custom_id or "", wanted, line.check)

    def refuse(self, error: LineError) -> None:
        """Something is wrong with a line, or with the input as a whole."""
        if len(self.errors) < MOST_ERRORS:
            self.errors.append(error)
        else:
            self._unlisted += 1

    def verdict(self) -> tuple[LineError, ...]:
        """Once every line was seen: what is wrong with the input; empty when it can be run."""
        if self.is_full:
            self.errors.insert(0, LineError("too_many_lines", f"A batch has at most {self._most} lines."))
        elif not self.total and not self.errors:
            self.errors.append(LineError("empty_file", "The file has no lines."))
        if self._unlisted:
            self.errors.append(LineError("more_errors", f"{self._unlisted} more errors are not listed."))
        return tuple(self.errors)

    def _submitted(self, line: Line) -> Submission:
        assert line.body is not None
        if line.members.get("background"):
            raise InvalidRequestError("The lines of a batch are in the background as they are.", param="background")
        if line.members.get(PARAM):
            raise InvalidRequestError(f'Put "{PARAM}" beside "body".', param=PARAM)
        wanted = submission(self._endpoint, line.body, line.members, self._headers)
        if wanted.stream:
            raise InvalidRequestError("The lines of a batch are answered as a whole.", param="stream")
        self._known(wanted)
        return wanted

    def _problem(self, line: Line) -> LineError | None:
        """What is wrong around a body."""
        number, custom_id = line.number, line.custom_id
        if not custom_id or len(custom_id) > LONGEST_CUSTOM_ID:
            words = f'"custom_id" must be a text of 1 to {LONGEST_CUSTOM_ID} characters.'
            return LineError("invalid_custom_id", words, number, "custom_id")
        first = self._seen.setdefault(custom_id, number)
        if first != number:
            words = f'"custom_id" must be unique, and "{custom_id}" is that of line {first} already.'
            return LineError("duplicate_custom_id", words, number, "custom_id")
        if line.method != "POST":
            return LineError("invalid_method", '"method" must be POST.', number, "method")
        if line.url != self._endpoint.path:
            words = f'"url" must be {self._endpoint.path}, as the batch says.'
            return LineError("mismatched_url", words, number, "url")
        if line.body is None:
            return LineError("invalid_body", '"body" must be an object.', number, "body")
        return None


def _error_in_body(error: InvalidRequestError, number: int) -> LineError:
    """What is wrong with the body of a line."""
    return LineError(error.code, error.message, number, "body" if error.param is None else f"body.{error.param}")
