import pytest

from tests.core.tokenizer import HfTokenizer, make_tokenizer
from verse import openblas

# Before any test module imports mlx, which takes many times as long with a BLAS of its own.
openblas.preload()


@pytest.fixture(scope="session")
def tokenizer() -> HfTokenizer:
    """As it ships; shared, so never changed."""
    return make_tokenizer()
