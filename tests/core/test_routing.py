"""From the name a client asks for to the route that serves it."""

import pytest

from supervisord.core.errors import ModelNotFoundError
from supervisord.core.routing import Parameters, Route, Routes

CHAT = Route(("chat", "gpt-4o"), ("big", "small"), last_resort=("cloud",))
EMBED = Route(("embed",), ("small",))


def test_a_route_is_found_by_each_of_its_names() -> None:
    routes = Routes((CHAT, EMBED))

    assert (routes.named("chat"), routes.named("gpt-4o"), routes.named("embed")) == (CHAT, CHAT, EMBED)
    assert (CHAT.name, routes.all) == ("chat", (CHAT, EMBED))


def test_a_name_nobody_knows() -> None:
    with pytest.raises(ModelNotFoundError, match='No backend serves the model "x"') as error:
        Routes((CHAT, EMBED)).named("x")

    assert error.value.param == "model"


def test_a_name_nobody_knows_goes_to_the_default_where_there_is_one() -> None:
    routes = Routes((CHAT, EMBED), default="gpt-4o")

    assert (routes.named("x"), routes.named("embed")) == (CHAT, EMBED)


def test_what_a_backend_is_part_of() -> None:
    routes = Routes((CHAT, EMBED))

    assert routes.of_backend("small") == (CHAT, EMBED)
    assert routes.of_backend("cloud") == (CHAT,)
    assert routes.of_backend("gone") == ()


@pytest.mark.parametrize(
    "parameters",
    [
        Parameters({"a": "1"}),
        Parameters(default={"a": "1"}),
        Parameters(strip=frozenset("a")),
        Parameters(max_tokens_default=1),
        Parameters(max_tokens_limit=1),
    ],
)
def test_what_changes_something_says_so(parameters: Parameters) -> None:
    assert not parameters.changes_nothing
    assert Parameters().changes_nothing
