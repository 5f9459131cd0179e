"""The form of ids. They rise with time, so that the order of ids is that of age, and a place in a list can be told by
an id also where what it named is gone."""

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: nothing that is read as something else
LENGTH = 16  # milliseconds since the epoch (9), a count within them (3), a random part (4)

_LETTERS = frozenset(ALPHABET)


def is_id(text: str) -> bool:
    """Whether it could be one, without the word before it that says of what."""
    return len(text) == LENGTH and _LETTERS.issuperset(text)
