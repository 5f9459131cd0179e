"""The example of a configuration, and what becomes of it when people uncomment things."""

import re
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "etc" / "llm-supervisord.yaml"

COMMENTED = re.compile(r"^( *)#([^ \n].*)$", re.MULTILINE)
# A key whose settings are commented out with it, one level deeper.
BLOCK = re.compile(r"^( *)#([^ #\n].*:)\n((?:\1#  .*\n)+)", re.MULTILINE)


def with_blocks(text: str) -> str:
    """`text` with its commented blocks in force; what is commented out inside of them stays so."""
    return BLOCK.sub(lambda block: re.sub(rf"^{block[1]}#", block[1], block[0], flags=re.MULTILINE), text)


def uncommented() -> str:
    """The example with everything in force."""
    return COMMENTED.sub(r"\1\2", with_blocks(EXAMPLE.read_text()))
