import pytest

from tests.core.tokenizer import HfTokenizer, make_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> HfTokenizer:
    """As it ships; shared, so never changed."""
    return make_tokenizer()
