"""`GET /health`: whether poems are being written. Open without a key."""

from litestar import Controller, Response, route
from litestar.openapi.datastructures import ResponseSpec

from verse_server.api.convert import wire_health
from verse_server.api.dependencies import READ, EngineDependency, error_responses
from verse_server.protocol.health import HealthResponse

_UNHEALTHY = ResponseSpec(
    HealthResponse, description="Draining, stalled or dead.", generate_examples=False
)


class HealthController(Controller):
    """For probes and load balancers."""

    path = "/health"
    tags = ("health",)

    @route(http_method=READ, sync_to_thread=False, responses=error_responses() | {503: _UNHEALTHY})
    def check(self, engine: EngineDependency) -> Response[HealthResponse]:
        """200 while new requests are served, 503 while draining, stalled or dead."""
        health = wire_health(engine.health())
        return Response(health, status_code=200 if health.status == "ok" else 503)
