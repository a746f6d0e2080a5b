"""What can be asked for: `/v1/models` as OpenAI has it, `/v1/adapters` for the operator.

Beside them vLLM's endpoints to load and unload an adapter, and a probe of what one changes.
"""

from pathlib import PurePosixPath
from typing import Annotated

from litestar import Controller, post, route
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import JSONBody, PathParameter

from verse_server.api.convert import (
    probe_request,
    wire_adapter,
    wire_adapters,
    wire_model,
    wire_models,
    wire_probe,
)
from verse_server.api.decoding import StrictLoadBody, StrictProbeBody, StrictUnloadBody
from verse_server.api.openapi import READ, EngineDependency, error_responses
from verse_server.protocol.models import (
    Adapter,
    AdapterList,
    LoadLoRAAdapterRequest,
    Model,
    ModelList,
    Probe,
    ProbeRequest,
    UnloadLoRAAdapterRequest,
)

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
        """By any spelling: `Qwen/Qwen2.5-7B`, `xuzhimo@200`, `xuzhimo:0.7+hushi:0.3`."""
        return wire_model(engine.model(str(model_id).removeprefix("/")))


class AdaptersController(Controller):
    """Adapters as an operator sees them. Poems need none of this: asking for a name loads it."""

    tags = ("adapters",)

    @route("/adapters", http_method=READ, sync_to_thread=True, responses=error_responses(401))
    def list(self, engine: EngineDependency) -> AdapterList:
        """Every folder: in memory or not, refused and why, and what loading it found."""
        return wire_adapters(engine.adapters.list(), engine.adapters.num_slots)

    @post(
        "/adapters/{name:str}/probe",
        status_code=200,
        dto=StrictProbeBody,
        return_dto=None,
        responses=error_responses(400, 401, 404, 409, 413, 503),
    )
    async def probe(
        self,
        name: Annotated[str, PathParameter(schema_extra={"min_length": 1})],
        data: JSONBody[ProbeRequest],
        engine: EngineDependency,
    ) -> Probe:
        """Measure how far an adapter, by any spelling, moves the base on a prompt."""
        target, prompt = await probe_request(data, name, engine)
        return wire_probe(await engine.adapters.probe(target, prompt))

    @post(
        "/load_lora_adapter",
        status_code=200,
        dto=StrictLoadBody,
        return_dto=None,
        responses=error_responses(400, 401, 404, 409, 413, 503),
    )
    async def load(
        self, data: JSONBody[LoadLoRAAdapterRequest], engine: EngineDependency
    ) -> Adapter:
        """Bring an adapter into memory now, and serve it again if it was unloaded."""
        return wire_adapter(await engine.adapters.load(data.lora_name, data.lora_path))

    @post(
        "/unload_lora_adapter",
        status_code=200,
        dto=StrictUnloadBody,
        return_dto=None,
        responses=error_responses(400, 401, 404, 413, 503),
    )
    async def unload(
        self, data: JSONBody[UnloadLoRAAdapterRequest], engine: EngineDependency
    ) -> Adapter:
        """Free its slots and refuse it until it is loaded again; what runs is finished."""
        return wire_adapter(await engine.adapters.unload(data.lora_name))
