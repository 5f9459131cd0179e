"""Sizes, durations, token counts and shares: what is read, what is refused and how, and that texts come back."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.config.units import (
    MAX_DURATION_S,
    MAX_SIZE,
    EnvironmentText,
    format_duration,
    format_percent,
    format_size,
    format_tokens,
    parse_decrease,
    parse_duration,
    parse_percent,
    parse_rate,
    parse_size,
    parse_tokens,
    quote,
)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("24GiB", 24 * 2**30),
        ("14GB", 14 * 10**9),
        ("512MiB", 512 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("1tib", 2**40),
        ("7B", 7),
        ("4096", 4096),
        (4096, 4096),
        (0, 0),
    ],
)
def test_sizes(written: object, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("14GB/s", '"14GB/s" is not a size; write 14GB or 14GiB'),
        ("14G", '"14G" is not a size; write 14GB or 14GiB'),
        ("1.5gi", '"1.5gi" is not a size; write 1.5GB or 1.5GiB'),
        ("much", '"much" is not a size; write 24GiB, 14GB or 512MiB'),
        ("1XB", '"1XB" is not a size; write 24GiB, 14GB or 512MiB'),
        ("-1GB", '"-1GB" is not a size; write 24GiB, 14GB or 512MiB'),
        ("", '"" is not a size; write 24GiB, 14GB or 512MiB'),
        ("\u0661GB", '"\u0661GB" is not a size; write 24GiB, 14GB or 512MiB'),
        (-1, '"-1" is not a size; write 24GiB, 14GB or 512MiB'),
        (1.5, '"1.5" is not a size; write 24GiB, 14GB or 512MiB'),
        (True, "true is not a size; write 24GiB, 14GB or 512MiB"),
        (None, "an empty value is not a size; write 24GiB, 14GB or 512MiB"),
        ([], "a list is not a size; write 24GiB, 14GB or 512MiB"),
        ({}, "a mapping is not a size; write 24GiB, 14GB or 512MiB"),
        ("8193TiB", '"8193TiB" is more than the largest size, 8192TiB'),
        (EnvironmentText("14G", "${env:X}"), "the value of ${env:X} is not a size; write 24GiB, 14GB or 512MiB"),
    ],
)
def test_refused_sizes(written: object, message: str) -> None:
    assert refusal(parse_size, written) == message


@pytest.mark.parametrize(("written", "rate"), [("10MB", 10**7), ("10MB/s", 10**7), (5, 5)])
def test_rates(written: object, rate: int) -> None:
    assert parse_rate(written) == rate


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("30d", 30 * 86_400),
        ("1d2h3m4s5ms", 93_784.005),
        ("1.5h", 5400),
        ("90", 90),
        ("0.5", 0.5),
        (90, 90),
        (0.25, 0.25),
    ],
)
def test_durations(written: object, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written", ["", "s", "10 m", "10x", "1m1h", "1m1m", "-1s", "1:30", -1, float("nan"), float("inf"), True, None, []]
)
def test_refused_durations(written: object) -> None:
    assert refusal(parse_duration, written) == f"{quote(written)} is not a duration; write 90s, 10m, 1h30m or 250ms"


@pytest.mark.parametrize("written", ["3661d", 10**400, 1e300])
def test_durations_beyond_reason(written: object) -> None:
    assert refusal(parse_duration, written).endswith("is more than the longest duration, 3660d")


@pytest.mark.parametrize(
    ("written", "tokens"), [("16k", 16_384), ("16K", 16_384), ("1.5k", 1536), ("1M", 2**20), ("512", 512), (512, 512)]
)
def test_tokens(written: object, tokens: int) -> None:
    assert parse_tokens(written) == tokens


@pytest.mark.parametrize("written", ["16kb", "0.3k", "-1", "", True, 1.5, None, -1])
def test_refused_tokens(written: object) -> None:
    assert refusal(parse_tokens, written) == f"{quote(written)} is not a count of tokens; write 16k or 16384"


@pytest.mark.parametrize(
    ("written", "ratio"), [("10%", 0.1), ("5 %", 0.05), ("0.5%", 0.005), (0.1, 0.1), ("0.1", 0.1), (0, 0), (1, 1)]
)
def test_shares(written: object, ratio: float) -> None:
    assert parse_percent(written) == ratio


@pytest.mark.parametrize("written", ["101%", "10", 10, -0.1, "ten%", True, None, float("nan")])
def test_refused_shares(written: object) -> None:
    assert refusal(parse_percent, written) == f"{quote(written)} is not a share; write 10% or 0.1 (from 0% to 100%)"


@pytest.mark.parametrize(("written", "ratio"), [("-5%", 0.05), ("-5 %", 0.05), ("-0.5", 0.5), (-0.05, 0.05)])
def test_decreases(written: object, ratio: float) -> None:
    assert parse_decrease(written) == ratio


@pytest.mark.parametrize(
    "written", ["5%", 0.05, "-0%", 0, "-100%", -1, "--5%", "- 5%", "-", True, None, float("nan"), [-0.05]]
)
def test_refused_decreases(written: object) -> None:
    assert refusal(parse_decrease, written) == f"{quote(written)} is not a decrease; write -5% or -0.05"


@given(st.integers(0, MAX_SIZE))
def test_sizes_come_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, int(MAX_DURATION_S * 1000)))
def test_durations_come_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(0, 2**24))
def test_tokens_come_back(tokens: int) -> None:
    assert parse_tokens(format_tokens(tokens)) == tokens


@given(st.integers(0, 100_000))
def test_shares_come_back(thousandths: int) -> None:
    assert parse_percent(format_percent(thousandths / 100_000)) == pytest.approx(thousandths / 100_000, abs=1e-12)


@pytest.mark.parametrize("parse", [parse_size, parse_rate, parse_duration, parse_tokens, parse_percent, parse_decrease])
@given(written=st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none(), st.lists(st.integers())))
def test_whatever_is_written_it_is_a_figure_or_a_refusal(parse: Callable[[object], float], written: object) -> None:
    try:
        figure = parse(written)
    except ValueError as error:
        figure, refused = 0, str(error)
    else:
        refused = "no"
    assert figure >= 0
    assert refused.isprintable()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb\x1b[31m", '"a\\nb\\x1b[31m"'),
        ("x" * 100, f'"{"x" * 39}…"'),
        ("\u202edrow", '"\\u202edrow"'),
        (False, "false"),
        (EnvironmentText("sk-secret", "${env:KEY}"), "the value of ${env:KEY}"),
    ],
)
def test_quoting_never_breaks_a_line_nor_shows_a_secret(value: object, shown: str) -> None:
    assert quote(value) == shown


def refusal(parse: Callable[[object], object], written: object) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        parse(written)
    return str(caught.value)
