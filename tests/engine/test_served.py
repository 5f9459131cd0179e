"""What a line of a batch may ask for."""

import pytest

from supervisord.core.errors import ModelForbiddenError, ModelNotFoundError, TokenLimitError
from supervisord.core.job import Submission
from supervisord.core.routing import Parameters, Route
from supervisord.engine.served import Served
from tests.engine.rig import CHAT, llama, rig

BODY = b'{"model":"a","messages":[]}'


async def test_only_what_is_configured_and_allowed_can_be_asked_for() -> None:
    limited = Parameters(max_tokens_limit=10)
    routes = [Route(("a", "alias"), ("a",)), Route(("short",), ("a",), parameters=limited)]
    async with rig(llama("a"), routes=routes) as made:
        permits = made.supervisor.permits
        served = Served(made.supervisor.dispatcher, permits)
        served.check(Submission(CHAT, "alias", BODY, client="ann"))
        served.check(Submission(CHAT, "short", BODY, client="ann", max_tokens=10))
        with pytest.raises(ModelNotFoundError):
            served.check(Submission(CHAT, "other", BODY, client="ann"))
        with pytest.raises(TokenLimitError):
            served.check(Submission(CHAT, "short", BODY, client="ann", max_tokens=11))
        permits.models = {"ann": frozenset({"short"})}
        with pytest.raises(ModelForbiddenError):
            served.check(Submission(CHAT, "alias", BODY, client="ann"))
        served.check(Submission(CHAT, "alias", BODY, client="bob"))
