"""`llm-supervisord --check FILE` and `--schema`."""

import os
import sys

from supervisord.config.json_schema import schema_json
from supervisord.config.load import load_file
from supervisord.config.places import Surroundings
from supervisord.core.errors import ConfigurationError


def check(path: str) -> int:
    """Say on stdout that a file is sound, or on stderr all that is wrong with it. Returns 0 or 78 (EX_CONFIG)."""
    try:
        configuration = load_file(path, Surroundings.of_process())
    except ConfigurationError as error:
        print(f"llm-supervisord: {error.message}", file=sys.stderr)
        return os.EX_CONFIG
    count = len(configuration.backends)
    print(f"{path}: ok, {count} backend{'' if count == 1 else 's'}")
    return os.EX_OK


def print_schema() -> int:
    """Print the JSON Schema of the configuration file. Returns 0."""
    print(schema_json(), end="")
    return os.EX_OK
