"""`verse train`: a configuration and flags in, an adapter out.

The flags are made from TrainConfig itself, one for every key that fits on a command line, so no key
can lack its flag or have another type there. None has a default of its own: a flag that was not
given hides nothing. Nothing heavy is imported before the command runs: `verse --help` loads this.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, cast

import msgspec
import typer
from msgspec.inspect import (
    BoolType,
    FloatType,
    IntType,
    LiteralType,
    Metadata,
    NoneType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from verse_trainer.config import TrainConfig, preset_names

HELP: Mapping[str, str] = MappingProxyType(
    {
        "model": "The base: a model folder or a Hugging Face id.",
        "data": "A folder with train.jsonl, valid.jsonl and perhaps test.jsonl.",
        "adapter_path": "The folder to write; its name is the adapter's.",
        "train": "Train.",
        "test": "Measure the loss on test.jsonl at the end.",
        "method": "sft learns poems, dpo learns preferences.",
        "fine_tune_type": "What to train.",
        "num_layers": "Blocks to adapt, counted from the end; -1 for all.",
        "mask_prompt": "Learn the poem only, not the frame before it.",
        "prompt_format": "The frame around theme and poem.",
        "max_seq_length": "Tokens of the longest row.",
        "batch_size": "Rows of one step.",
        "grad_accumulation_steps": "Steps to an update.",
        "epochs": "Passes over the rows; 15 if neither is given.",
        "iters": "Steps; wins over epochs.",
        "optimizer": "How an update is made from a gradient.",
        "learning_rate": "Together with scale, how fast the poems are learned.",
        "seed": "Of order, dropout and first weights.",
        "steps_per_report": "Steps between training losses.",
        "steps_per_eval": "Steps between validations; as save_every if not given.",
        "save_every": "Steps between checkpoints; once an epoch if not given.",
        "val_batches": "Batches to validate with; -1 for all.",
        "test_batches": "Batches to test with; -1 for all.",
        "patience": "Validations without a better loss before it stops; 0 for never.",
        "resume": "Go on where the run in adapter_path stopped.",
        "resume_adapter_file": "Weights to start a new run from.",
        "grad_checkpoint": "Compute more and keep less in memory.",
        "clear_cache_threshold": "Cache to keep between steps, as in 2GB.",
        "sample_every": "Steps between poems for the sample themes.",
        "sample_themes": "A theme to write on; give it once for each.",
        "beta": "DPO: how hard preferences pull.",
        "sft_weight": "DPO: weight of the loss on the chosen poem.",
        "report_to": "Also send the figures to wandb, swanlab or both.",
        "project_name": "The project there.",
        "trust_remote_code": "Run code that comes with the model.",
    }
)
_SIZES = frozenset({"clear_cache_threshold"})
"""Numbers that may carry a unit."""


def with_config_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a Typer command that takes `**flags` an option for every key."""
    signature = inspect.signature(command)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters = [*own, *_flags()]
    setattr(command, "__signature__", signature.replace(parameters=parameters))  # noqa: B010
    return command


def _flags() -> Iterator[inspect.Parameter]:
    for field in _fields():
        kind = str if field.name in _SIZES else _python_type(field.type)
        if kind is None:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        option = typer.Option(
            f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
            help=HELP[field.name] + _shown(field.default),
        )
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[kind | None, option],
        )


def _fields() -> tuple[msgspec.inspect.Field, ...]:
    info = type_info(TrainConfig)
    assert isinstance(info, msgspec.inspect.StructType)
    return info.fields


def _python_type(kind: Type) -> Any:
    """The type Typer knows it by; None for what only a file can hold."""
    match kind:
        case Metadata():
            return _python_type(kind.type)
        case UnionType():
            (inner,) = [part for part in kind.types if not isinstance(part, NoneType)]
            return _python_type(inner)
        case LiteralType():
            return Literal[kind.values]
        case VarTupleType():
            return list[str]
        case BoolType():
            return bool
        case IntType():
            return int
        case FloatType():
            return float
        case msgspec.inspect.StrType():
            return str
        case _:
            return None


def _shown(default: Any) -> str:
    """Typer would show None, which is what every flag has until it is given."""
    if default is None:
        return ""
    if isinstance(default, bool):
        return f"  [{'on' if default else 'off'}]"
    if isinstance(default, tuple):
        return f"  [{' '.join(cast(tuple[str, ...], default))}]"
    return f"  [{default}]"


app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, rich_markup_mode=None)

_Config = Annotated[
    str | None,
    typer.Option("--config", "-c", help=f"A YAML file, or a preset: {', '.join(preset_names())}."),
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object per line, for machines.")]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Try one step, tell what a run would be, and stop.")
]


@app.command()
@with_config_flags
def train(
    config: _Config = None, json: _Json = False, dry_run: _DryRun = False, **flags: Any
) -> None:
    """Train an adapter on the rows of a data folder.

    Flags and the file's keys are those of mlx_lm.lora. A flag wins over the file.
    """
    from verse_trainer.command import run_command

    raise typer.Exit(run_command(config, flags, as_json=json, dry_run=dry_run))
