"""Whether an answer is what its request asked for: a JSON text, or calls of tools, that fit a JSON Schema.

Here is read what the doors' forms say; whether a value fits a schema is asked of `Misfit`, which the caller brings.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from supervisord.core.errors import InvalidRequestError
from supervisord.core.output_forms import FORMS, Carried, Choice, Json, decoded, members
from supervisord.core.terms import OutputCheck

PARAM = "validate_output"
MOST_RETRIES = 10  # each is a whole answer more; what does not fit after as many is asked for in the wrong words
LONGEST_MESSAGE = 1000  # characters; a validator quotes the value that it does not like, which can be the whole answer

Misfit = Callable[[Json, Json], str]  # schema, value -> what of it does not fit; empty: all of it does


@dataclass(frozen=True, slots=True)
class Fits:
    """The answer is what was asked for."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """It is not; `message` may quote it. `again`: another answer may fit."""

    message: str
    again: bool = True


@dataclass(frozen=True, slots=True)
class Truncated:
    """It ended at its limit of tokens, and what there is of it does not fit. The same limit would cut it off again."""

    message: str


Verdict = Fits | Wrong | Truncated


def asked(schema: str = "", retries: str = "") -> OutputCheck:
    """What is asked for in these words of JSON; empty: not said. Raises InvalidRequestError.

    A check without a schema goes by the one that its request carries.
    """
    often = int(retries) if retries.isascii() and retries.isdecimal() and len(retries) <= len(str(MOST_RETRIES)) else -1
    if retries and often not in range(MOST_RETRIES + 1):
        raise InvalidRequestError(
            f'"{PARAM}.retries" must be a whole number from 0 to {MOST_RETRIES}.', param=f"{PARAM}.retries"
        )
    text = "" if schema == "null" else schema
    return OutputCheck(text, often) if retries else OutputCheck(text)


def check_terms(check: OutputCheck, endpoint: str, request: bytes, flaw: Callable[[Json], str]) -> None:
    """Raises InvalidRequestError where an answer to `request` could not be checked.

    `flaw`: why nothing can be held against a schema; empty: it is one.
    """
    form = FORMS.get(endpoint)
    if form is None:
        raise InvalidRequestError(f'"{PARAM}" checks answers of {", ".join(FORMS)}.', param=PARAM)
    body = members(request)
    if body.get("stream") is True:
        raise InvalidRequestError(f'"{PARAM}" needs the whole answer: leave "stream" out.', param="stream")
    carried = _schemas(check, form.carried(body))
    if not carried:
        raise InvalidRequestError(
            f'There is nothing to check the answer against: give {form.where}, or "{PARAM}.schema".', param=PARAM
        )
    for name, schema in carried.each():
        if told := flaw(schema):
            raise InvalidRequestError(f"The JSON Schema of {name} cannot be used: {shortened(told)}", param=PARAM)


def verdict(check: OutputCheck, endpoint: str, request: bytes, answer: bytes, misfit: Misfit) -> Verdict:
    """What a backend's whole answer to `request` is worth. `endpoint` is one that `check_terms` let through."""
    form = FORMS[endpoint]
    choices = form.choices(members(answer))
    if not choices:
        return Wrong("the answer has no text and no calls in it")
    carried = _schemas(check, form.carried(members(request)))
    for at, choice in enumerate(choices, 1):
        told = next(_faults(choice, carried, misfit), "")
        if told:
            message = shortened(told if len(choices) == 1 else f"choice {at}: {told}")
            return Truncated(f"it was cut off at its limit of tokens: {message}") if choice.cut else Wrong(message)
    return Fits()


def shortened(message: str) -> str:
    """As much of a message as is kept of it."""
    return message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 1] + "…"


def _schemas(check: OutputCheck, carried: Carried) -> Carried:
    """A schema that stands in the terms goes before that of the request; tools stay as they are."""
    if not check.schema:
        return carried
    return Carried(text=(json.loads(check.schema),), tools=carried.tools, must_call=carried.must_call)


def _faults(choice: Choice, carried: Carried, misfit: Misfit) -> Iterator[str]:
    if choice.refusal:
        yield f"the model refused: {choice.refusal}"
    for call in choice.calls:
        if call.name not in carried.tools:
            if carried.tools:
                yield f'it calls "{call.name}", which is none of its tools'
        elif told := _fault(carried.tools[call.name], call.input, misfit):
            yield f"the call of {call.name}: {told}"
    if carried.must_call and not choice.calls:
        yield "it calls none of its tools"
    if carried.text and not choice.calls:
        yield _fault(carried.text[0], choice.text, misfit)


def _fault(schema: Json, value: Json, misfit: Misfit) -> str:
    if isinstance(value, str):
        value, problem = decoded(value)
        if problem:
            return f"it is not JSON: {problem}"
    return misfit(schema, value)
