"""What all tests share."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio; the anyio plugin comes with httpx."""
    return "asyncio"
