"""Which clients may use which models, and how much at the same time, where the operator has said so."""

from collections.abc import Mapping

from supervisord.core.errors import ModelForbiddenError


class Permits:
    """By the names of clients; those that are not listed may use every model.

    Clients are told apart by their keys: without keys everybody is who they say, and nobody is listed.
    """

    def __init__(self) -> None:
        self.models: Mapping[str, frozenset[str]] = {}  # by client: the main names of those it may use
        self.concurrency: Mapping[str, int] = {}  # by client: how many of its durable jobs run at the same time

    def may(self, client: str, model: str) -> bool:
        """Whether `client` may use the model whose main name is `model`."""
        models = self.models.get(client)
        return models is None or model in models

    def check(self, client: str, model: str) -> None:
        """Raises ModelForbiddenError."""
        if not self.may(client, model):
            raise ModelForbiddenError(
                f'The key "{client}" may not use the model "{model}"; GET /v1/models lists those it may.', param="model"
            )
