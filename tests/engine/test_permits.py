"""Models that a client may use."""

import pytest

from supervisord.core.errors import ModelForbiddenError
from supervisord.engine.permits import Permits


def test_whoever_is_not_listed_may_use_all() -> None:
    permits = Permits()
    permits.check("ada", "big")
    permits.models = {"ada": frozenset({"small"})}
    permits.check("bob", "big")
    permits.check("ada", "small")
    with pytest.raises(ModelForbiddenError, match='The key "ada" may not use the model "big"'):
        permits.check("ada", "big")
