"""All problems of a file come at once, in one table, and none because of another."""

import pytest
from pydantic_core import ErrorDetails

from supervisord.config import explain
from supervisord.config import parse as parsing
from supervisord.config.parse import parse
from supervisord.config.problem import InvalidConfigurationError, Problem
from tests.fakes.config_problems import AROUND, problems

NOT_LOOPBACK = (
    "is not loopback, and there are no keys: whoever reaches it could use the models; "
    "use 127.0.0.1, or name who may in keys"
)
MANY = """\
listen: 0.0.0.0:8411
backends:
  llama3-70b:
    model: ${env:NOPE}
    contex: 16k
    port: 9000
  Other: {model: x, port: 9000, ladder: [{context: 1.0}]}
  extract-8b:
    runtime: vlm
    gpu_layers: 40
    memory: {vram: 14GB/s}
  none:
    port: 9000
    restart: {backoff: {base: 2h, cap: 1s}}
  sglang: {runtime: sglang, aliases: [four], tp: 2, slots: 0}
memory:
  vram: {tight: {free: 14GB/s}, critical: {free: 64GiB}}
models:
  chat: {backends: [llama3-70b, extract-8], set: {model: x}, max_tokens: {default: 8k, limit: 4k}}
  many: {backends: []}
routing: {default: fore}
"""


def test_all_problems_come_at_once_and_none_because_of_another() -> None:
    taken = "port 9000 is already that of backends.llama3-70b; choose another, or 0 for a free one"
    assert problems(MANY) == [
        ("listen", f'"0.0.0.0" {NOT_LOOPBACK}', 1),
        (
            "backends.llama3-70b.model",
            "environment variable NOPE is not set; set it, or write ${env:NOPE:-default}",
            4,
        ),
        ("backends.llama3-70b.contex", 'unknown setting; did you mean "context"?', 5),
        (
            "backends.Other",
            '"Other" cannot name a backend; use at most 63 of a-z 0-9 . _ - and begin with a-z or 0-9',
            7,
        ),
        ("backends.Other.ladder[0]", "context 100% takes no less than the 100% before it", 7),
        ("backends.Other.port", taken, 7),
        ("backends.extract-8b.model", "missing; give the folder of a model, or its name on a hub", 8),
        ("backends.extract-8b.runtime", '"vlm" is not a runtime; did you mean "vllm"?', 9),
        ("backends.extract-8b.gpu_layers", "does not apply to runtime vllm; it is a setting of llama.cpp", 10),
        ("backends.extract-8b.memory.vram", '"14GB/s" is not a size; write 14GB or 14GiB', 11),
        ("backends.none.model", "missing; give the path of a model file, or embedded for the small bundled one", 12),
        ("backends.none.port", taken, 13),
        ("backends.none.restart.backoff.base", '"2h" is out of range; write 10ms to 1h', 14),
        ("backends.sglang.runtime", '"sglang" is not a runtime; write llama.cpp, vllm, command or remote', 15),
        # Which settings it has is not known, only that each runtime has slots.
        ("backends.sglang.slots", '"0" is out of range; write 1 to 1024', 15),
        # Not that critical is above tight: what tight was meant to be is not known.
        ("memory.vram.tight.free", '"14GB/s" is not a size; write 14GB or 14GiB', 17),
        ("models.chat.backends[1]", 'there is no backend "extract-8"; did you mean "extract-8b"?', 19),
        ("models.chat.max_tokens.default", "default (8k) must not be above limit (4k)", 19),
        (
            "models.chat.set.model",
            '"model" cannot be changed here: the daemon or the client decides it; leave it out',
            19,
        ),
        ("models.many.backends", "names no backend; a model needs at least one", 20),
        ("routing.default", 'there is no model "fore"; did you mean "four"?', 21),
    ]


def test_the_table_people_read() -> None:
    text = "backends:\n  llama3-70b:\n    model: m.gguf\n    contex: 16k\nmemory:\n  vram: {reserve: 14GB/s}\n"
    with pytest.raises(InvalidConfigurationError) as caught:
        parse(text.encode(), file="config.yaml", around=AROUND)
    assert caught.value.message == (
        "2 problems in config.yaml, nothing was changed\n"
        '  backends.llama3-70b.contex   unknown setting; did you mean "context"?      line 4\n'
        '  memory.vram.reserve          "14GB/s" is not a size; write 14GB or 14GiB   line 6'
    )
    assert caught.value.code == "bad_configuration"


def test_a_long_message_does_not_push_the_others_away() -> None:
    error = InvalidConfigurationError("f", [Problem(("a",), "x" * 200, 1), Problem(("b",), "short", 2)])
    assert error.message.splitlines()[2] == "  b   short   line 2"


def test_a_file_in_another_format_does_not_flood_the_journal() -> None:
    text = "".join(f"zz{index}: 1\n" for index in range(200))
    with pytest.raises(InvalidConfigurationError) as caught:
        parse(text.encode(), file="f", around=AROUND)
    lines = caught.value.message.splitlines()
    assert len(caught.value.problems) == 200
    assert lines[0] == "200 problems in f, nothing was changed"
    assert lines[51:] == ["  and 150 more"]


def test_a_file_that_cannot_be_mended_has_the_problems_found_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """No contradictions then: they are looked for in what is left of the file."""
    monkeypatch.setattr(parsing, "_ROUNDS", 1)
    text = "backends: {a: {runtime: vlm, model: 3}, b: {model: m, gpus: [0, 0]}}"
    assert problems(text) == [("backends.a.runtime", '"vlm" is not a runtime; did you mean "vllm"?', 1)]


def test_a_mistake_without_words_of_ours_is_told_in_the_validator_s() -> None:
    error = ErrorDetails(type="finite_number", loc=("a",), msg="Input should be a finite number", input=1)
    assert explain.message(error) == "Input should be a finite number"
