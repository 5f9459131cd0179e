"""Keys at the public door: how many requests of each are under way, of every kind."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest

from supervisord.api.door import Body, HttpClient, Request, Response, Taking, Upload, Work, json_answer
from supervisord.api.keys import public_door
from supervisord.api.public import PublicDoor
from supervisord.core.keys import Key, digest_of

ADA = Key("ada", digest_of("secret"), concurrency=1)
CLIENT = cast("HttpClient", None)


class House:
    """Works that last until they are let go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.under_way: Counter[str] = Counter()
        table = {
            "/slow": {"POST": self._slow, "GET": self._slow},
            "/slow/{id}/cancel": {"POST": lambda _request: self._cancel},
            "/at-once": {"POST": lambda _request: json_answer("done")},
            "/file": {"POST": Upload(self._taken, 10, "limits.upload")},
        }
        self.door: PublicDoor = public_door((table,), frozenset(), (ADA,), self.under_way)

    async def _cancel(self, client: HttpClient) -> Response:
        del client
        return json_answer("cancelled")

    def _slow(self, request: Request) -> Work:
        del request
        return self._work

    def _taken(self, request: Request, body: Body) -> Work:
        del request, body
        return self._work

    async def _work(self, client: HttpClient) -> Response:
        del client
        await self.go_on.wait()
        return json_answer("done")

    def asked(self, path: str, method: str = "POST") -> Response | Work:
        return self.door.answer(asked(path, method))

    def uploaded(self) -> Work:
        taking = self.door.late(asked("/file", "POST"))
        assert isinstance(taking, Taking)
        return taking.upload.begin(taking.head, Body.of(b"x"))


def asked(path: str, method: str) -> Request:
    headers = {"host": "localhost", "authorization": "Bearer secret"}
    return Request(method, path, "", "", headers, b"", http_1_1=True, keep_alive=True)


async def ended(work: Response | Work) -> int:
    assert not isinstance(work, Response)
    answer = await work(CLIENT)
    assert answer is not None
    return answer.status


@pytest.mark.parametrize(
    "begin", [lambda house: house.asked("/slow"), lambda house: house.uploaded()], ids=["body", "upload"]
)
async def test_one_more_than_it_may_is_refused_and_the_next_one_is_not(begin: Callable[[House], Work]) -> None:
    house = House()
    first = asyncio.get_running_loop().create_task(ended(begin(house)))
    await asyncio.sleep(0)
    for more in (begin, House.uploaded, partial(House.asked, path="/slow")):
        assert await ended(more(house)) == 429
    house.go_on.set()
    assert await first == 200
    assert await ended(begin(house)) == 200
    assert house.under_way["ada"] == 0


async def test_looking_is_not_counted_nor_what_is_answered_at_once() -> None:
    house = House()
    house.under_way["ada"] = 1
    house.go_on.set()
    assert await ended(house.asked("/slow", "GET")) == 200
    answer = house.asked("/at-once")
    assert isinstance(answer, Response)
    assert answer.status == 200


async def test_a_key_that_has_all_it_may_can_still_look_and_cancel() -> None:
    house = House()
    house.under_way["ada"] = 1
    assert await ended(house.asked("/slow/7/cancel")) == 200
    assert await ended(house.asked("/slow")) == 429


async def test_a_client_that_leaves_gives_its_place_back() -> None:
    house = House()
    task = asyncio.get_running_loop().create_task(ended(house.asked("/slow")))
    await asyncio.sleep(0)
    assert house.under_way["ada"] == 1
    task.cancel()
    await asyncio.wait((task,))
    assert house.under_way["ada"] == 0
