"""Secrets that are known by their shape: tokens by the prefixes that their issuers give them, private keys in PEM."""

import re

# The shortest length of each is one that is not yet a word of its own. No pattern may scan a long run from more than
# one place in it: a log holds what a client sent, and that may be made to be slow.
_ISSUED = (
    r"sk-[\w-]{6,}",  # OpenAI (sk-proj-), Anthropic (sk-ant-), OpenRouter (sk-or-), Langfuse (sk-lf-), …
    r"pk-lf-[\w-]{6,}",
    r"[spr]k_(?:live|test)_\w{6,}", r"whsec_[\w+/=]{8,}",  # Stripe
    r"hf_\w{6,}", r"api_org_\w{8,}",  # Hugging Face
    r"gh[opsur]_\w{6,}", r"github_pat_\w{6,}",
    r"gl(?:pat|oas|dt|rt|rtr|cbt|ptt|ft|imt|agent|soat|ffct)-[\w-]{8,}(?:\.[\w-]+){0,2}",  # GitLab
    r"dckr_(?:pat|oat)_[\w-]{6,}",  # Docker
    r"xox[abceoprs]-[\w-]{8,}", r"xoxe\.xox[bp]-[\w-]{8,}", r"xapp-\d-[\w-]{4,}",  # Slack
    r"hooks\.slack\.com/(?:services|workflows|triggers)/[\w/-]{8,}",
    r"(?:AKIA|ASIA)[0-9A-Z]{8,}",  # AWS
    r"AIza[\w-]{20,}", r"ya29\.[\w-]{6,}", r"GOCSPX-[\w-]{8,}",  # Google
    r"nvapi-[\w-]{8,}", r"gsk_\w{8,}", r"xai-\w{20,}", r"pplx-\w{20,}", r"r8_\w{20,}", r"tgp_v1_[\w-]{8,}",
    r"npm_\w{20,}", r"pypi-AgE[\w-]{16,}", r"do[opr]_v1_\w{6,}", r"dapi[0-9a-f]{32}",
    r"AT[AC]TT3[\w=-]{8,}",  # Atlassian
    r"SG\.[\w-]{6,100}\.[\w-]{6,}",  # SendGrid
    r"hv[sbr]\.[\w-]{20,}",  # HashiCorp Vault
    r"tskey-[\w-]{8,}", r"lin_api_\w{8,}", r"shp(?:at|ca|pa|ss)_\w{8,}",
    r"gl(?:sa|c)_[\w=]{20,}", r"sntry[su]_[\w=+/]{8,}",
    r"AGE-SECRET-KEY-1[A-Z0-9]{20,}",
)  # fmt: skip
# Where a run has no dot, it was scanned in vain: from its beginning that is once, from within it no further than this.
_JWT = r"(?:(?<![\w-])eyJ[\w-]{8,}|\beyJ[\w-]{8,100})\.{1,2}[\w-]{4,}(?:\.[\w-]+){0,3}"
SHAPES = re.compile(rf"\b(?:{'|'.join(_ISSUED)}|{_JWT})")

_KEY_BEGINS = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_KEY_ENDS = r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
PRIVATE_KEY = re.compile(rf"{_KEY_BEGINS}.*?(?:{_KEY_ENDS}|\Z)", re.DOTALL)
_LAST_EDGE = re.compile(rf"(?P<begins>{_KEY_BEGINS})|{_KEY_ENDS}")


def opens_private_key(line: str, *, inside: bool) -> bool:
    """Whether a private key goes on after `line`, in which one was open (`inside`) or not."""
    for edge in _LAST_EDGE.finditer(line):
        inside = edge["begins"] is not None
    return inside
