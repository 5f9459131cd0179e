"""What a client can make a log hold must not make its export slow: a pattern in which time grows by the square of the
length holds up every thread of the daemon, and so its loop."""

import time

import pytest

from supervisord.core.redact import redact, redact_text

SIZE = 32 * 1024  # characters; the double is compared with it
MOST = 3.0  # times as long for the double: by the square it is 4
TRIES = 5  # other processes and the collector make single measurements longer, never shorter

HOSTILE = [
    "eyJ-", "eyJ.", "eyJabcdefgh", "-eyJabcdefgh-", "SG.abcdefg", "SG.", "sk-", "xoxe.", "ATATT", "glpat-", "1 ",
    "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY", "-----BEGIN PRIVATE KEY----------END ", "BEGIN PRIVATE ",
    "://a", "://a:", "://a:b", "://@", "https://a:b/", "user:a@", "a.b-", "a_", "_", "--a.", "--key", "--key ", "-hft ",
    "key='", 'key="\\', "key=[", "key=(", "key=\\'", "key=", "key: ", "key=<", "=", ":", "'", '"', "\\", "\\'",
    "{'a': ",
    "authorization: ", "authorization", "authorization:\\\"", "authorization: digest ", "bearer ", "Bearer a ",
    "cookie ",
    "&policy", "&policy=", "?sig=a&", "x-amz-signature", "signature=", "-u a", "-u a:", "-u ", "--user ", "-u 1:1 ",
    "password ", "password is ", "secret key ", "passphrase ", "passphrase is ", "credentials ", "credentials token ",
    "token a1", "token ", "token aaaa", "key 1", "prompt", "prompt ", "prompt=", "prompt token 1",
    "generated response ",
    "parsing input ", "request: ", '"text" ', "content\\", "-p '", "-p ", "--prompt ", "--prompt a ", "--prompt -a ",
    "/home/", "/home/a", "/root", "INFO 11-21 ", "(a pid=1) ", "srv ", "a" * 32, "1" * 32, " ", "\n", "ƛ",
]  # fmt: skip


def spent(text: str) -> float:
    began = time.thread_time()
    redact_text(text)
    return time.thread_time() - began


@pytest.mark.parametrize("family", HOSTILE)
def test_the_time_grows_with_the_length(family: str) -> None:
    text, double = (family * (size // len(family)) for size in (SIZE, 2 * SIZE))
    ratios: list[float] = []
    while not ratios or (min(ratios) >= MOST and len(ratios) < TRIES):
        ratios.append(spent(double) / max(spent(text), 1e-3))
    assert min(ratios) < MOST, ratios


@pytest.mark.parametrize("family", ["a", "ab", "and she cried ", "-----BEGIN PRIVATE KEY-----\n", " ", "key='"])
def test_the_time_grows_with_a_log_and_what_quotes_it(family: str) -> None:
    def spent_on(count: int) -> float:
        lines = [f"{family * (SIZE // 8 // len(family))}{number}" for number in range(count)]
        short = [f"{family * 40}"[:30] + str(number) for number in range(20)]
        value = {"log": ["srv  x: request: {", *lines, *short], "story": [{"text_": line} for line in lines]}
        began = time.thread_time()
        redact(value)
        return time.thread_time() - began

    ratios: list[float] = []
    while not ratios or (min(ratios) >= MOST and len(ratios) < TRIES):
        ratios.append(spent_on(40) / max(spent_on(20), 1e-3))
    assert min(ratios) < MOST, ratios
