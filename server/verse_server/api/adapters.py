"""`/v1/adapters` and its probe, and vLLM's endpoints to load and unload one."""

from typing import Annotated

from litestar import Controller, post, route
from litestar.params import JSONBody, PathParameter

from verse.prompt import Message
from verse_server.api.convert import wire_adapter, wire_adapters, wire_probe
from verse_server.api.dependencies import READ, EngineDependency, error_responses
from verse_server.api.encoding import encoded
from verse_server.api.strict_body import StrictLoadBody, StrictProbeBody, StrictUnloadBody
from verse_server.protocol.adapters import (
    Adapter,
    AdapterList,
    LoadLoRAAdapterRequest,
    Probe,
    ProbeRequest,
    UnloadLoRAAdapterRequest,
)


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
        target, prompt = await encoded(engine, name, [Message("user", data.prompt)])
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
