"""`adapter_config.json`, mlx-lm's and PEFT's."""

import json
import math
from typing import Any

import pytest

from verse.adapter_config import AdapterConfig, MlxConfig, PeftConfig, decode_adapter_config

Q_PROJ = "model.layers.0.self_attn.q_proj"
V_PROJ = "model.layers.0.self_attn.v_proj"
DOWN_PROJ = "model.layers.11.mlp.down_proj"


def decode(config: object) -> AdapterConfig:
    return decode_adapter_config(json.dumps(config).encode())


def mlx(**changes: Any) -> AdapterConfig:
    config = {
        "fine_tune_type": "lora",
        "num_layers": 6,
        "lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0},
        "model": "models/verse-tiny",
    }
    return decode({**config, **changes})


def peft(**changes: Any) -> AdapterConfig:
    """As PEFT 0.17 writes it, with every key that concerns us."""
    config = {
        "alora_invocation_tokens": None,
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": "Qwen/Qwen2.5-0.5B",
        "bias": "none",
        "corda_config": None,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": 16,
        "lora_bias": False,
        "lora_dropout": 0.05,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "qalora_group_size": 16,
        "r": 8,
        "rank_pattern": {},
        "revision": None,
        "target_modules": ["q_proj", "v_proj"],
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
    }
    return decode({**config, **changes})


def test_the_dialect_is_told_by_the_keys() -> None:
    assert isinstance(mlx(), MlxConfig)
    assert isinstance(peft(), PeftConfig)
    # A stray key of the other dialect changes nothing.
    assert isinstance(peft(lora_parameters={"rank": 4}), PeftConfig)


def test_an_ordinary_configuration_of_either_dialect_can_be_served() -> None:
    assert mlx().refusal() is None
    assert peft().refusal() is None


def test_mlx_lm_multiplies_by_the_scale_as_it_is() -> None:
    config = mlx(lora_parameters={"rank": 8, "scale": 20.0})
    assert (config.rank_of(Q_PROJ), config.scale_of(Q_PROJ)) == (8, 20.0)


def test_an_alpha_of_mlx_lm_is_divided_by_the_rank() -> None:
    config = mlx(lora_parameters={"rank": 8, "alpha": 16})
    assert config.refusal() is None
    assert config.scale_of(Q_PROJ) == 2.0


def test_a_scale_of_mlx_lm_wins_over_an_alpha_even_if_it_is_zero() -> None:
    assert mlx(lora_parameters={"rank": 8, "scale": 3.0, "alpha": 16}).scale_of(Q_PROJ) == 3.0
    assert mlx(lora_parameters={"rank": 8, "scale": 0.0, "alpha": 16}).scale_of(Q_PROJ) == 0.0


def test_an_mlx_lm_adapter_without_a_type_is_lora() -> None:
    config = decode({"lora_parameters": {"rank": 4, "scale": 1}})
    assert config.refusal() is None
    assert not config.uses_dora


def test_dora_is_recorded_by_either_dialect() -> None:
    for config in (mlx(fine_tune_type="dora"), peft(use_dora=True)):
        assert config.refusal() is None
        assert config.uses_dora
    assert not mlx().uses_dora
    assert not peft().uses_dora


def test_the_base_is_recorded_by_either_dialect() -> None:
    assert mlx().recorded_base == "models/verse-tiny"
    assert peft().recorded_base == "Qwen/Qwen2.5-0.5B"
    assert mlx(model=None).recorded_base is None
    assert peft(base_model_name_or_path=None).recorded_base is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fine_tune_type": "full"}, "full fine-tune"),
        ({"fine_tune_type": "full", "lora_parameters": None}, "full fine-tune"),
        ({"fine_tune_type": "lokr"}, "'lokr' is neither"),
        ({"lora_parameters": None}, "no lora_parameters"),
        ({"lora_parameters": {"rank": 0, "scale": 1.0}}, "rank"),
        ({"lora_parameters": {"rank": -8, "scale": 1.0}}, "rank"),
        ({"lora_parameters": {"rank": 8}}, "no scale"),
        ({"lora_parameters": {"rank": 8, "scale": None}}, "no scale"),
    ],
)
def test_what_mlx_lm_writes_and_verse_cannot_serve_is_named(
    changes: dict[str, Any], reason: str
) -> None:
    refusal = mlx(**changes).refusal()
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "'IA3' is not LORA"),
        ({"peft_type": "ADALORA"}, "'ADALORA' is not LORA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias='all'"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"trainable_token_indices": {"embed_tokens": [1]}}, "trainable_token_indices"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"use_qalora": True}, "use_qalora"),
        ({"alora_invocation_tokens": [1, 2, 3]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights='pissa_niter_16'"),
        ({"init_lora_weights": "OLoRA"}, "init_lora_weights='OLoRA'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights='corda'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq'"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights='lora_ga'"),
        ({"r": 0}, "rank below 1"),
        ({"rank_pattern": {"q_proj": 0}}, "rank below 1"),
        ({"rank_pattern": {"q_proj": -1}, "use_rslora": True}, "rank below 1"),
        ({"rank_pattern": {"layers.[0-": 4}}, "'layers.[0-' in"),
        ({"alpha_pattern": {"*.q_proj": 4}}, "'*.q_proj' in"),
    ],
)
def test_what_peft_writes_and_verse_cannot_serve_is_named(
    changes: dict[str, Any], reason: str
) -> None:
    refusal = peft(**changes).refusal()
    assert refusal is not None
    assert reason in refusal


def test_every_reason_against_a_peft_adapter_is_named() -> None:
    refusal = peft(bias="all", modules_to_save=["lm_head"]).refusal()
    assert refusal is not None
    assert "modules_to_save, bias='all'" in refusal


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal"])
def test_an_initialization_that_leaves_the_base_alone_is_fine(init: object) -> None:
    assert peft(init_lora_weights=init).refusal() is None


def test_empty_and_absent_peft_options_are_fine() -> None:
    assert peft(modules_to_save=[], layer_replication=[], target_parameters=[]).refusal() is None
    assert decode({"peft_type": "lora"}).refusal() is None


def test_peft_divides_alpha_by_the_rank() -> None:
    assert peft(r=8, lora_alpha=16).scale_of(Q_PROJ) == 2.0
    assert peft(r=16, lora_alpha=8).scale_of(Q_PROJ) == 0.5
    assert decode({"peft_type": "LORA"}).scale_of(Q_PROJ) == 1.0  # PEFT's own defaults


def test_rslora_divides_alpha_by_the_root_of_the_rank() -> None:
    assert peft(r=16, lora_alpha=8, use_rslora=True).scale_of(Q_PROJ) == 2.0
    scale = peft(r=8, lora_alpha=16, use_rslora=True).scale_of(Q_PROJ)
    assert scale == pytest.approx(16 / math.sqrt(8))


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("q_proj", True),
        ("self_attn.q_proj", True),
        (Q_PROJ, True),
        (r"layers\.0\..*", True),
        (r"layers\.\d+\.self_attn\.(q|k)_proj", True),
        ("^" + Q_PROJ.replace(".", r"\."), True),
        (r".*\.0\..*", True),
        ("proj", False),  # a whole word of the path, not its end
        ("self_attn", False),
        ("attn.q_proj", False),
        ("^self_attn.q_proj", False),
        ("v_proj", False),
        (r"layers\.1\..*", False),
        ("model.layers.0", False),
    ],
)
def test_patterns_match_as_peft_matches_them(pattern: str, matches: bool) -> None:
    """PEFT: `re.match(rf"(.*\\.)?({key})$", path)`."""
    config = peft(r=8, rank_pattern={pattern: 4}, lora_alpha=16, alpha_pattern={pattern: 100})
    assert config.rank_of(Q_PROJ) == (4 if matches else 8)
    assert config.scale_of(Q_PROJ) == (25.0 if matches else 2.0)


def test_the_first_pattern_that_matches_wins() -> None:
    config = peft(rank_pattern={r"layers\.0\..*": 2, "q_proj": 4, ".*proj": 6})
    assert (config.rank_of(Q_PROJ), config.rank_of(DOWN_PROJ)) == (2, 6)
    assert config.rank_of("model.layers.1.self_attn.q_proj") == 4


def test_rank_and_alpha_have_patterns_of_their_own() -> None:
    config = peft(
        r=8,
        lora_alpha=16,
        rank_pattern={"q_proj": 4},
        alpha_pattern={"v_proj": 32},
        use_rslora=True,
    )
    assert config.scale_of(Q_PROJ) == 16 / 2
    assert config.scale_of(V_PROJ) == pytest.approx(32 / math.sqrt(8))
    assert config.scale_of(DOWN_PROJ) == pytest.approx(16 / math.sqrt(8))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"lora"',
        b"{}",
        b'{"rank": 8, "scale": 2.0}',
        b"\xff\xfe{\x00}\x00",
        b'\xef\xbb\xbf{"peft_type": "LORA"}',
        b'{"peft_type": null}',
        b'{"peft_type": "LORA", "r": "8"}',
        b'{"peft_type": "LORA", "rank_pattern": {"q_proj": [true, false]}}',
        b'{"lora_parameters": {"scale": 2.0}}',
        b'{"lora_parameters": {"rank": 8.5, "scale": 2.0}}',
        b'{"lora_parameters": {"rank": 8, "scale": 1e999}}',
        b'{"lora_parameters": {"rank": 8, "scale": NaN}}',
        b'{"lora_parameters": []}',
    ],
)
def test_what_is_no_configuration_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_adapter_config(data)
