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

from verse.folders import RULE
from verse.machines.launcher import DEFAULT_PORT
from verse_trainer.config import TrainConfig, preset_names

HELP: Mapping[str, str] = MappingProxyType(
    {
        "model": "The base: a model folder or a Hugging Face id.",
        "data": "A folder with train.jsonl, valid.jsonl and perhaps test.jsonl.",
        "adapter_path": "The folder to write; its name is the adapter's.",
        "train": "Train.",
        "test": "Measure the loss on test.jsonl at the end.",
        "method": "sft trains on poems, dpo on preferences.",
        "fine_tune_type": "What to train.",
        "num_layers": "Layers to adapt, counted from the end; -1 for all.",
        "mask_prompt": "Train on the poem only, not on the prompt before it.",
        "prompt_format": "How theme and poem become a prompt.",
        "max_seq_length": "The longest row allowed, in tokens.",
        "long_rows": "A longer row is cut at a line's end, left out, or stops the run.",
        "batch_size": "Rows per step.",
        "grad_accumulation_steps": "Steps per optimizer update.",
        "epochs": "Passes over the rows; 15 if neither this nor iters is given.",
        "iters": "Steps; takes precedence over epochs.",
        "optimizer": "The optimizer.",
        "learning_rate": "Learning rate; what counts is rate x scale.",
        "seed": "Seed of row order, dropout and initial weights.",
        "steps_per_report": "Steps between reports of the training loss.",
        "steps_per_eval": "Steps between validations; as save_every if not given.",
        "save_every": "Steps between checkpoints; once an epoch if not given.",
        "val_batches": "Batches to validate with; -1 for all.",
        "test_batches": "Batches to test with; -1 for all.",
        "patience": "Validations without a better loss before it stops; 0 for never.",
        "resume": "Continue the run in adapter_path.",
        "resume_adapter_file": "Weights to start a new run from.",
        "layer_cache": "Compute frozen layers once, not in every step.",
        "layer_cache_folder": "Keep what they gave there, for other runs on the same rows.",
        "grad_checkpoint": "Recompute activations to save memory.",
        "clear_cache_threshold": "Memory cache to keep between steps, such as 2GB.",
        "sample_every": "Steps between poems for the sample themes.",
        "sample_themes": "A theme to write about; repeat the flag for more.",
        "beta": "DPO: strength of the preferences.",
        "sft_weight": "DPO: weight of the loss on the chosen poem.",
        "report_to": "Also report to wandb, swanlab or both.",
        "project_name": "The project name there.",
        "trust_remote_code": "Run code that ships with the model.",
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
    bool,
    typer.Option("--dry-run", help="Measure one step, report what the run would take, and stop."),
]
_Hosts = Annotated[
    str | None,
    typer.Option("--hosts", help="A hostfile of mlx.launch: train on all machines listed there."),
]
_StartingPort = Annotated[
    int,
    typer.Option("--starting-port", min=1, max=65000, help="With --hosts: its first port."),
]


@app.command(epilog=RULE)
@with_config_flags
def train(
    config: _Config = None,
    json: _Json = False,
    dry_run: _DryRun = False,
    hosts: _Hosts = None,
    starting_port: _StartingPort = DEFAULT_PORT,
    **flags: Any,
) -> None:
    """Train an adapter on the rows of a data folder.

    Flags and the file's keys are those of mlx_lm.lora. A flag takes precedence over the file.
    """
    from verse_trainer.command import OnMachines, run_command

    machines = None if hosts is None else OnMachines(hosts, starting_port)
    code = run_command(config, flags, as_json=json, dry_run=dry_run, machines=machines)
    raise typer.Exit(code)
