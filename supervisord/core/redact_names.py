"""Names that secrets go by: of members, of variables, of flags. And what under such a name is none."""

import re

REMOVED = "[removed]"
SECRET, PROMPT, HOME = "secrets", "prompts", "home folders"

_LONGEST_NAME = 256  # characters of its end that are looked at

_PARTS = re.compile(
    r"(?i)key|token|secret|passw|passphrase|passcode|credential|authorization|cookie|bearer|pgpass|signature"
)
# Too short to be looked for within words: "bypass", "author", "pinned", "spin" and --pin-memory are none.
_WORDS = re.compile(
    r"(?i)(?:^|[^a-z0-9])(?:(?:pwd|pw|pass|auth|oauth2?|jwt|creds?|psk|otp)(?![a-z0-9])|pin(?:[_-]?code)?$)|"
    r"(?-i:(?<=[a-z])(?:Pwd|Pass|Auth|Jwt|Pin)(?![a-z]))"
)
# Names of the trade with such a word in them, whose values are worth reading. Figures stay under most names.
_HARMLESS = re.compile(
    r"(?i)tokeni[sz]|detoken|monkey|keyboard|^KeyError$|^process_token$|"
    r"[-_.](?:key|token|secret|password|passwd)[-_]?(?:file|path)$"
)
# Under these a number may be the secret itself: elsewhere it is a number of tokens, or of keys.
_NUMBERS_TOO = re.compile(
    r"(?i)passw|secret|passphrase|passcode|pgpass|[_-]pass$|pwd|api[_-]?key|(?:^|[^a-z])pin|(?-i:[a-z]Pin)"
)

_NONE = re.compile(r"(?i)none|null|true|false|\[removed\]|\[\]|\(\)|\"\"|''|\[none\]|<[^>]{0,100}>")
_FIGURE = re.compile(r"[+-]?\d+(?:\.\d+)?")

_PROMPT_FLAGS = frozenset({"-p", "--prompt", "-sys", "--system-prompt"})  # of llama.cpp's programs
_USER_FLAGS = frozenset({"-u", "-U", "--user", "--proxy-user"})  # of curl
# Not `1000:1000`: that is a user and a group, or two ports.
NAMED_LOGIN = r"(?!\d{1,10}:\d{1,10}(?:[\s'\"]|$))(?!\w{1,20}://)[^\s:'\"]{1,200}:[^\s'\"]{1,1000}"
_NAMED_LOGIN = re.compile(NAMED_LOGIN)
_PORTS = re.compile(r"\d{1,5}(?::\d{1,5}){0,2}")


def holds_secret(name: str) -> bool:
    """Whether what goes by this name (a member, a variable, a flag) is taken for a secret."""
    name = name[-_LONGEST_NAME:]
    return (_PARTS.search(name) or _WORDS.search(name)) is not None and _HARMLESS.search(name) is None


def may_be_number(name: str) -> bool:
    """Whether a number under this name is taken for a secret as well."""
    return _NUMBERS_TOO.search(name[-_LONGEST_NAME:]) is not None


def is_no_secret(name: str, value: str) -> bool:
    """Whether `value` is none although `name` holds some: an absence, a figure, what was blanked, a path in $PWD."""
    if _FIGURE.fullmatch(value) is not None:
        return not may_be_number(name)
    return _NONE.fullmatch(value) is not None or (name == "PWD" and value.startswith("/"))


# --- flags -----------------------------------------------------------------------------------------------------------


def flag_of_secret(argument: str) -> bool:
    """Whether the next arguments belong to this one and are secrets: `--api-key`, not `--api-key=…`."""
    if not argument.startswith("-") or "=" in argument or " " in argument:
        return False
    return argument == "-hft" or holds_secret(argument.lstrip("-"))  # -hft: llama.cpp's short --hf-token


def is_prompt_of(flag: str, value: str) -> bool:
    """Whether `value` follows `flag` as a prompt does: not a port, which is what -p takes elsewhere."""
    return flag in _PROMPT_FLAGS and _PORTS.fullmatch(value) is None


def is_user_of(flag: str, value: str) -> bool:
    """Whether `value` follows `flag` as a name with its password: `-u me:secret`."""
    return flag in _USER_FLAGS and _NAMED_LOGIN.fullmatch(value) is not None
