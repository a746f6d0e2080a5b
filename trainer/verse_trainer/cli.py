"""`verse train`: a configuration and flags in, an adapter out.

Nothing heavy is imported before the command runs: `verse --help` loads this module.
"""

from typing import Annotated, Any

import typer

from verse_trainer.flags import with_config_flags
from verse_trainer.presets import preset_names

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
