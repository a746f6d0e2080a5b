"""What all tests share."""

import pytest
from hypothesis import HealthCheck, settings

# A machine that is busy with something else makes no test fail.
settings.register_profile(
    "verse", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("verse")


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio; the anyio plugin comes with httpx."""
    return "asyncio"
