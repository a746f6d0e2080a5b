"""`GET /v1/models`: what a request's `model` field may name."""

from pathlib import PurePosixPath
from typing import Annotated

from litestar import Controller, route
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import PathParameter

from verse_server.api.convert import wire_model, wire_models
from verse_server.api.dependencies import READ, EngineDependency, error_responses
from verse_server.protocol.models import Model, ModelList

ModelId = Annotated[
    PurePosixPath, PathParameter(schema_extra={"type": OpenAPIType.STRING, "min_length": 1})
]
"""A path, because ids of Hugging Face hold a slash."""


class ModelsController(Controller):
    """The base and its adapters. In threads, because a new folder may mean hashing large files."""

    path = "/models"
    tags = ("models",)

    @route(http_method=READ, sync_to_thread=True, responses=error_responses(401))
    def list(self, engine: EngineDependency) -> ModelList:
        """The base and every adapter that can be served."""
        return wire_models(engine.models())

    @route(
        "/{model_id:path}",
        http_method=READ,
        sync_to_thread=True,
        responses=error_responses(400, 401, 404, 409),
    )
    def retrieve(self, engine: EngineDependency, model_id: ModelId) -> Model:
        """One of them by any spelling, slashes included: `Qwen/Qwen2.5-7B`, `xuzhimo@200`."""
        return wire_model(engine.model(str(model_id).removeprefix("/")))
