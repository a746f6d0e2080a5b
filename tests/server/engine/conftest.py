"""A tiny random base and adapters of every kind on it."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from verse import openblas

openblas.preload()

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from mlx_lm import utils as mlx_lm_utils  # noqa: E402
from mlx_lm.generate import generate_step  # noqa: E402
from mlx_lm.models import qwen2  # noqa: E402
from mlx_lm.tuner.utils import linear_to_lora_layers  # noqa: E402

from tests.server.engine.engine_requests import StartEngine  # noqa: E402
from tests.server.engine.fixtures_files import BASE_MODULES, make_root  # noqa: E402
from verse_server.config import EngineConfig  # noqa: E402
from verse_server.engine.adapters.registry import AdapterRegistry  # noqa: E402
from verse_server.engine.engine import MlxEngine  # noqa: E402

VERSE_TINY = Path(__file__).parents[3] / "models" / "verse-tiny"
CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 8192,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}
ALL_KEYS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
MakeAdapter = Callable[..., Path]
GreedyAlone = Callable[..., list[int]]


def build_base(folder: Path, seed: int, **overrides: Any) -> Path:
    """A random Qwen2 with biases, non-square projections and verse-tiny's tokenizer."""
    folder.mkdir(parents=True)
    config = {**CONFIG, **overrides}
    mx.random.seed(seed)
    model = qwen2.Model(qwen2.ModelArgs.from_dict(config))
    weights = {
        # Larger than the default init, so that greedy answers vary from prompt to prompt.
        name: mx.random.normal(array.shape) * (0.3 if array.ndim > 1 else 1.0)
        for name, array in cast(list[tuple[str, mx.array]], tree_flatten(model.parameters()))
        if name != "lm_head.weight"
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(VERSE_TINY / file, folder / file)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("models") / "tiny", seed=0)


def write_adapter(
    base: Path,
    folder: Path,
    *,
    seed: int,
    rank: int = 8,
    scale: float = 2.0,
    keys: Sequence[str] = ALL_KEYS,
    num_layers: int = 2,
    kind: str = "lora",
    strength: float = 0.3,
) -> Path:
    """Write a random adapter folder in mlx-lm's format, with the names mlx-lm itself gives."""
    model, _ = mlx_lm_utils.load_model(base)
    parameters = {"rank": rank, "scale": scale, "dropout": 0.0, "keys": list(keys)}
    linear_to_lora_layers(model, num_layers, parameters, use_dora=kind == "dora")
    mx.random.seed(1000 + seed)
    weights: dict[str, mx.array] = {}
    for name, array in cast(list[tuple[str, mx.array]], tree_flatten(model.parameters())):
        leaf = name.rsplit(".", 1)[-1]
        if leaf in ("lora_a", "lora_b"):
            weights[name] = mx.random.normal(array.shape) * strength
        elif leaf == "m":
            weights[name] = array * (1 + 0.2 * mx.random.normal(array.shape))
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {
        "fine_tune_type": kind,
        "num_layers": num_layers,
        "lora_parameters": parameters,
        "model": "tiny",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def make_adapter(tiny_base: Path) -> MakeAdapter:
    """`write_adapter` for the tiny base."""
    return partial(write_adapter, tiny_base)


@pytest.fixture(scope="session")
def greedy_alone(tiny_base: Path) -> GreedyAlone:
    """What mlx-lm itself writes, alone, at temperature 0, with `load_adapters` or without."""
    models: dict[Path | None, Any] = {}

    def run(adapter: Path | None, prompt: Sequence[int], num_tokens: int) -> list[int]:
        if adapter not in models:
            path = None if adapter is None else str(adapter)
            models[adapter] = mlx_lm_utils.load(str(tiny_base), adapter_path=path)[0]
        tokens: list[int] = []
        for token, _ in generate_step(
            mx.array(list(prompt)), models[adapter], max_tokens=num_tokens
        ):
            tokens.append(int(token))
            if tokens[-1] == CONFIG["eos_token_id"]:
                break
        return tokens

    return run


@pytest.fixture
def adapters(tmp_path: Path, make_adapter: Any) -> Path:
    root = tmp_path / "adapters"
    for seed, name in enumerate(("a", "b", "c")):
        make_adapter(root / name, seed=seed, rank=4 + 4 * seed)
    return root


@pytest.fixture
def start_engine(tiny_base: Path, adapters: Path) -> Iterator[StartEngine]:
    engines: list[MlxEngine] = []

    def start(**options: Any) -> MlxEngine:
        config = EngineConfig(model=str(tiny_base), adapters=adapters, **options)
        engines.append(MlxEngine.start(config))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty adapters folder for a registry, which needs no model."""
    return make_root(tmp_path / "adapters")


@pytest.fixture
def registry(root: Path) -> AdapterRegistry:
    return AdapterRegistry(root, "verse-tiny", BASE_MODULES)
