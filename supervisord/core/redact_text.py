"""Secrets, prompts and home folders in plain text: a command line, an environment, a URL, a line of a log."""

import re
from collections import Counter
from collections.abc import Callable

from supervisord.core.redact_names import HOME, NAMED_LOGIN, REMOVED, SECRET, flag_of_secret, holds_secret, is_no_secret
from supervisord.core.redact_prompts import cut_prompt
from supervisord.core.redact_shapes import PRIVATE_KEY, SHAPES

# No pattern here may take time by the square of a text's length: each run of a class that is not consumed is bounded.

# --- places where a secret stands ------------------------------------------------------------------------------------

# To the last @ before a slash: a password may hold one. It may hold a slash too, but then no port stands before it.
_USER_INFO = re.compile(
    r"(?<=://)(?:[^\s/?#\"'<>]{1,4000}(?=@)|[^\s/?#\"'<>:@]{1,64}:(?!\d{1,5}[/?#])[^\s\"'<>@]{1,128}(?=@))"
)
# What makes a signed URL one: of CloudFront (as hubs use it), S3, Google, Azure. `Signature=` also stands in headers.
_SIGNED = re.compile(
    r"(?i)((?:(?:[?&;]|\\u0026|%26)(?:policy|key-pair-id|sig|signature|awsaccesskeyid|googleaccessid)|"
    r"\bx-(?:amz|goog|oss|cos)-(?:signature|credential|security-token)|\bsignature)=)(?!\[removed\])[^&\s\"'<>#;,\\)]+"
)
_HEADER = re.compile(
    r"(?i)(\b(?:proxy-)?authorization\\?['\"]?\s{0,8}[:=]\s{0,8}+\\?+['\"]?+)(?!\[removed\])"
    r"(?:(?:digest|aws4-hmac-sha256)\s[^\r\n]+|(?:(?:bearer|basic|token)\s{1,8})?[^'\"\r\n,}\]]+)"
)
_SCHEME = re.compile(r"\b([Bb]earer|Basic)\s{1,8}+(?!\[removed\])[\w.~+/=-]{6,}")
_COOKIE = re.compile(r"(?i)(\b(?:set-)?cookie['\"]?\s{0,8}[:=]\s{0,8}+)(?!\[removed\])[^\r\n]+")
_USER = re.compile(rf"((?<![\w-])(?:-[uU]|--(?:proxy-)?user)[ \t=]{{1,8}}['\"]?){NAMED_LOGIN}")

# --- in prose --------------------------------------------------------------------------------------------------------

_PHRASE = re.compile(r"(?i)(\bpassphrase(?: is)? {1,8})(?!is\b)([^\s,;.:\"'=][^\r\n]*|\"[^\"\r\n]*\"?|'[^'\r\n]*'?)")
# "password foo", "the api key is foo", "Invalid credentials for token foo".
_TOLD = re.compile(
    r"(?i)(\b(?:pass(?:word|wd|code)|(?:api|access|secret|private|auth|hf)[ _-](?:access[ _-])?(?:key|token)|secret|"
    r"credentials?\b[^\r\n]{0,60}?\b(?:key|token))(?:[ \t]{1,8}(?:is|was))?[ \t]{1,8})"
    r"(?:\"[^\"\r\n]{1,4000}\"?|'[^'\r\n]{1,4000}'?|(?P<word>[^\s,;:()\[\]{}<>\"'=|]+))"
)
# What is said of a password rather than being one.
_OF_SECRETS = frozenset(
    re.findall(
        r"\w+",
        """
        a access an and any are as at authentication be been but by can cannot changed check could did do does empty
        enabled entry error expired failed failure file files for found from given had has hash have if in incorrect
        into invalid is it key keys length like manager may mismatch missing more must name no none not null of on
        only option or policy prompt protected protection provided rejected required requires reset revoked seems
        set should so stored than that the then there to token tokens too unset until updated url used using value
        values via was were when which will with without wrong you your
        """,
    )
)
# "token is 8f14e45fceea": too much of both letters and figures for a word, and no name of a tensor (blk.0.attn_q).
_RANDOM = re.compile(
    r"(?i)(\b(?:key|token)(?:[ \t]{1,8}(?:is|was))?[ \t]{1,8})"
    r"(?=[a-z+/=~-]{0,200}\d)(?=[\d+/=~-]{0,200}[a-z])[\w+/=~-]{8,4000}(?!\.?\w)"
)

# --- names with values -----------------------------------------------------------------------------------------------

# What stands between a name and its value: NAME=, name: , 'name': , ?name=, name => ; or a flag and a blank.
_BETWEEN = re.compile(
    r"(?P<sign>\\{0,3}['\"]?\s{0,4}(?:=>|==|:=|[=:])\s{0,4})|"
    r"(?P<flag>(?<![\w-])(?:--[A-Za-z][\w-]{0,100}|-hft))[ \t]{1,8}(?=[^-\s]|-[^-\s])"
)
_LONGEST_NAME = 256
_NAME = re.compile(r"[\w.-]*")  # of a text that is read backwards
_QUOTED = r"\"[^\"\\]*(?:\\.[^\"\\]*)*\"?|'[^'\\]*(?:\\.[^'\\]*)*'?"
_VALUE = re.compile(
    rf"\[[^\]\r\n]*\]?|\([^)\r\n]*\)?|\\{{1,3}}\"[^\"\r\n]*\"?|\\{{1,3}}'[^'\r\n]*'?|{_QUOTED}|[^\s,;&\"'<>)\]}}}}|]+",
    re.DOTALL,
)

_HOME = re.compile(
    r"(?<![\w.~-])(?:/(?:var/|export/)?home/[^/\s:;,'\"`)\]}>|]+|/Users/[^/\s:;,'\"`)\]}>|]+|/root(?![\w.-]))"
)


def text_of(text: str, removed: Counter[str]) -> str:
    """The text with what it must not say blanked, and that counted in `removed`."""
    text = cut_prompt(text, removed)
    text = _blanked(PRIVATE_KEY, text, removed, SECRET, lambda _: REMOVED)
    text = _blanked(_USER_INFO, text, removed, SECRET, lambda _: REMOVED)
    for behind in (_HEADER, _COOKIE, _SIGNED, _USER):
        text = _blanked(behind, text, removed, SECRET, lambda match: f"{match[1]}{REMOVED}")
    text = _blanked(_SCHEME, text, removed, SECRET, lambda match: f"{match[1]} {REMOVED}")
    text = _blanked(SHAPES, text, removed, SECRET, lambda _: REMOVED)
    text = _told_in_prose(_pairs(text, removed), removed)
    return _blanked(_HOME, text, removed, HOME, lambda _: "~")


def _blanked(
    pattern: re.Pattern[str], text: str, removed: Counter[str], what: str, instead: Callable[[re.Match[str]], str]
) -> str:
    text, count = pattern.subn(instead, text)
    if count:
        removed[what] += count
    return text


def _told_in_prose(text: str, removed: Counter[str]) -> str:
    def word(match: re.Match[str]) -> str:
        said = (match["word"] or "").rstrip(".!?").lower()
        if said in _OF_SECRETS or (match["word"] and is_no_secret(match[1], match["word"])):
            return match[0]
        removed[SECRET] += 1
        return f"{match[1]}{REMOVED}"

    def phrase(match: re.Match[str]) -> str:
        if match[2] == REMOVED or match[2].split(" ", 1)[0].lower() in _OF_SECRETS:
            return match[0]
        removed[SECRET] += 1
        return f"{match[1]}{REMOVED}"

    text = _TOLD.sub(word, _PHRASE.sub(phrase, text))
    return _blanked(_RANDOM, text, removed, SECRET, lambda match: f"{match[1]}{REMOVED}")


def _pairs(text: str, removed: Counter[str]) -> str:
    """Only what follows a name of a secret is skipped: any other value may itself be a name with its value."""
    told: list[str] = []
    done = at = 0
    while between := _BETWEEN.search(text, at):
        at = between.end()
        name, flag = _name_before(text, between.start()), between["flag"]
        if not (flag_of_secret(flag) if flag else holds_secret(name)):
            continue
        value = _VALUE.match(text, at)
        if value is None or is_no_secret(flag or name, value[0]):
            continue
        removed[SECRET] += 1
        told += (text[done:at], REMOVED)
        done = at = value.end()
    return "".join((*told, text[done:]))


def _name_before(text: str, end: int) -> str:
    """The name that ends at `end`, of which no more than the end counts. Each name is looked at from its end only."""
    found = _NAME.match(text[max(0, end - _LONGEST_NAME) : end][::-1])
    return "" if found is None else found[0][::-1]
