"""What every section of the file has in common, and how a setting is declared.

Defaults are written as people write them and validated like everything else, so that the JSON Schema, the example and
the reference show the same text.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from supervisord.config.units import quote


def setting(default: Any, description: str, *, alias: str | None = None) -> Any:
    """A setting with the text of its default, or None where the description tells it."""
    return Field(default=default, description=description, alias=alias)


@dataclass(frozen=True, slots=True)
class Missing:
    """What is said where a required setting is left out, and what stands in for it while the rest is checked."""

    advice: str
    stand_in: object


def required(description: str) -> Any:
    """A setting that has no default; the annotation has its Missing."""
    return Field(description=description)


def section(kind: type["Settings"], description: str) -> Any:
    """A mapping of more settings, all of them with their defaults where it is left out."""
    return Field(default_factory=kind, description=description)


class Settings(BaseModel):
    """A mapping of settings. A key without a value means the default, so a section may have all of it commented out."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _only_given(cls, data: object) -> object:
        if isinstance(data, dict):
            known = set(names(cls))
            return {key: value for key, value in data.items() if value is not None or key not in known}
        if data is None:
            return {}
        raise ValueError(f"{quote(data)} is not a mapping of settings; write KEY: VALUE lines below it, indented")


def names(kind: type[Settings]) -> list[str]:
    """The keys of a section, as they are written in the file."""
    return [info.alias or name for name, info in kind.model_fields.items()]
