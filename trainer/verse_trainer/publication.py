"""What a run leaves in its adapter folder for others to read: mlx-lm, the server, the poet.

    adapter_config.json, prompt.json      before any weights, so nobody misreads those
    0000200_adapters.safetensors          every checkpoint, written once and kept
    adapters.safetensors                  the best so far

Each file appears whole or not at all. Writing again what is there changes nothing, so a run that
goes on after a kill first makes up for what is missing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import msgspec

from verse.adapter_folder import CONFIG_FILE, MLX_WEIGHTS_FILE, PROMPT_FILE, checkpoint_file
from verse.atomic_file import replace_file, replacing
from verse.prompt import PromptFormat
from verse_trainer.config import TrainConfig
from verse_trainer.errors import TrainingError
from verse_trainer.lora import lora_parameters
from verse_trainer.run_record import RECORD_FILE, public_config
from verse_trainer.train_state import TrainState
from verse_trainer.training_state import STATE_FILE

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
_OF_A_RUN = (CONFIG_FILE, PROMPT_FILE, RECORD_FILE, METRICS_FILE, STATE_FILE, "*.safetensors")


class Publication:
    """The files of one adapter folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """`config` is the fixed part of `adapter_config.json`; see `adapter_config`."""
        self._folder = folder
        self._config = config

    def describe(self, standing: TrainState) -> None:
        """Write `adapter_config.json`.

        Raises:
            OSError: the disk is full or read-only; so for all methods here.
        """
        found = {
            "base_valid_loss": standing.base_valid_loss,
            "best_step": standing.best_step,
            "history": standing.history or None,
        }
        known = {key: value for key, value in found.items() if value is not None}
        _write_json(self._folder / CONFIG_FILE, {**self._config, **known})

    def write_prompt(self, prompt_format: PromptFormat) -> None:
        """Write `prompt.json`."""
        _write_json(self._folder / PROMPT_FILE, prompt_format)

    def keep(self, step: int, weights: Mapping[str, mx.array]) -> None:
        """Write the numbered checkpoint, unless it is there; it is never written over."""
        file = self._folder / checkpoint_file(step)
        if not file.exists():
            _write_weights(file, weights)

    @property
    def is_published(self) -> bool:
        """Whether the plain name is served."""
        return (self._folder / MLX_WEIGHTS_FILE).exists()

    def publish(self, weights: Mapping[str, mx.array]) -> None:
        """Make these the weights behind the plain name."""
        _write_weights(self._folder / MLX_WEIGHTS_FILE, weights)

    def published_weights(self) -> dict[str, mx.array]:
        """The weights behind the plain name."""
        return cast(dict[str, mx.array], mx.load(str(self._folder / MLX_WEIGHTS_FILE)))


def adapter_config(config: TrainConfig, keys: tuple[str, ...], num_layers: int) -> dict[str, Any]:
    """The fixed part of `adapter_config.json`: what mlx-lm needs to load the weights."""
    parameters = {**lora_parameters(config), "keys": keys}
    return {
        "fine_tune_type": config.fine_tune_type,
        "num_layers": num_layers,
        "lora_parameters": None if config.fine_tune_type == "full" else parameters,
        "model": public_config(config)["model"],
    }


def check_unused(folder: Path) -> None:
    """Refuse a folder that holds an adapter, so that nothing is written over.

    Raises:
        TrainingError: with the ways out.
    """
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"adapter_path {folder} is a file; give a folder.")
    if any(file for pattern in _OF_A_RUN for file in folder.glob(pattern)):
        raise TrainingError(
            f"{folder} already holds an adapter; go on with --resume, or choose another "
            "adapter_path."
        )


def _write_json(file: Path, content: Any) -> None:
    data = msgspec.json.format(msgspec.json.encode(content), indent=1)
    replace_file(file, [data, b"\n"])


def _write_weights(file: Path, weights: Mapping[str, mx.array]) -> None:
    # mlx lays tensors out by the order they come in: the same weights must give the same bytes.
    weights = dict(sorted(weights.items()))
    with replacing(file) as stream:
        cast(Any, mx).save_safetensors(stream, weights)
