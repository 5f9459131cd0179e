"""Who handles a path."""

import pytest

from supervisord.api.door import Request, Response, json_answer
from supervisord.api.router import Router


def handler(request: Request) -> Response:
    return json_answer(request.path)


ROUTER = Router(
    [
        {"/v1/jobs": {"GET": handler}, "/v1/jobs/{id}": {"GET": handler}, "/v1/jobs/{id}/result": {"GET": handler}},
        {"/v1/jobs/latest": {"GET": handler}, "/v1/models/{model...}": {"GET": handler}},
        {"/v1/{kind}/{id}": {"DELETE": handler}},
    ]
)


@pytest.mark.parametrize(
    ("path", "params", "methods"),
    [
        ("/v1/jobs", {}, {"GET"}),
        ("/v1/jobs/latest", {}, {"GET"}),
        ("/v1/jobs/j1", {"id": "j1"}, {"GET"}),
        ("/v1/jobs/j1/result", {"id": "j1"}, {"GET"}),
        ("/v1/models/org/name", {"model": "org/name"}, {"GET"}),
        ("/v1/models/name", {"model": "name"}, {"GET"}),
        ("/v1/files/f1", {"kind": "files", "id": "f1"}, {"DELETE"}),
    ],
)
def test_a_path_is_found_by_its_most_fixed_template(path: str, params: dict[str, str], methods: set[str]) -> None:
    found = ROUTER.find(path)
    assert found is not None
    assert (dict(found.params), set(found.methods)) == (params, methods)


@pytest.mark.parametrize(
    "path", ["", "/", "*", "/v1/jobs/", "/v1/jobs//result", "/v1/models/", "/v1/jobs/a/b/c", "/v2/jobs"]
)
def test_what_nobody_handles_is_not_found(path: str) -> None:
    assert ROUTER.find(path) is None


def test_two_handlers_of_one_path_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two handlers"):
        Router([{"/a": {"GET": handler}}, {"/a": {"GET": handler}}])


def test_all_paths_are_told() -> None:
    assert ROUTER.paths["/v1/jobs/{id}/result"] == ("GET",)
    assert len(ROUTER.paths) == 6
