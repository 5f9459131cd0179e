"""What a single setting cannot show."""

from dataclasses import dataclass

from supervisord.config.problem import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """A contradiction. It is shown at the first of `paths` that the file has; all of them take part in it."""

    paths: tuple[Path, ...]
    message: str
