"""Adapters as a terminal shows them."""

import time
from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from verse_trainer.adapters.compare import Written
from verse_trainer.adapters.listing import Details, Summary

_DAY = 86_400
_NAMED_MODULES = 8


def show_list(console: Console, summaries: Sequence[Summary]) -> None:
    """One line an adapter."""
    table = Table(box=None, pad_edge=False)
    broken = [entry for entry in summaries if entry.problem]
    for column in ("name", "format", "base", "checkpoints", "best", "loss"):
        table.add_column(column)
    for column in ("rank", "scale", "MB", "age"):
        table.add_column(column, justify="right")
    for entry in summaries:
        if entry not in broken:
            table.add_row(*map(Text, _row(entry)))
    console.print(table)
    for entry in broken:
        console.print(Text(f"{entry.name} cannot be served: {entry.problem}", style="yellow"))


def show_details(console: Console, details: Details) -> None:
    """Everything about one adapter."""
    summary = details.summary
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(details).items():
        table.add_row(Text(name, style="bold"), Text(value))
    console.print(table)
    if summary.checkpoints:
        losses = Table("step", "train loss", "valid loss", "", box=None, pad_edge=False)
        for entry in summary.checkpoints:
            mark = "best" if entry.step == summary.best_step else ""
            losses.add_row(str(entry.step), _loss(entry.train_loss), _loss(entry.valid_loss), mark)
        console.print(losses)
    for warning in details.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))


def show_written(console: Console, models: Sequence[str], written: Written) -> None:
    """Poems on one theme, in columns where they fit."""
    console.rule(Text(f"{written.theme} ({written.seed})"))
    panels = [
        Panel(Text(poem), title=Text(model))
        for model, poem in zip(models, written.poems, strict=True)
    ]
    console.print(Columns(panels))


def _row(entry: Summary) -> list[str]:
    steps = [checkpoint.step for checkpoint in entry.checkpoints]
    shown = (
        f"{len(steps)} ({steps[0]}-{steps[-1]})" if len(steps) > 1 else ", ".join(map(str, steps))
    )
    return [
        entry.name,
        entry.format,
        entry.base or "?",
        shown,
        "" if entry.best_step is None else str(entry.best_step),
        _loss(entry.valid_loss),
        str(entry.rank),
        f"{entry.scale:g}",
        f"{entry.bytes / 1e6:.1f}",
        _age(time.time() - entry.modified),
    ]


def _facts(details: Details) -> dict[str, str]:
    summary = details.summary
    norms = {name: factors.delta_norm for name, factors in details.modules.items()}
    largest = sorted(norms, key=norms.__getitem__, reverse=True)[:_NAMED_MODULES]
    facts = {
        "name": summary.name,
        "format": summary.format,
        "base": summary.base or "not recorded",
        "rank, scale": f"{summary.rank}, {summary.scale:g}",
        "version": details.digest,
        "modules": f"{len(norms)}, norm of the whole update "
        f"{sum(norm**2 for norm in norms.values()) ** 0.5:.4g}",
        "changed most": ", ".join(f"{name} {norms[name]:.3g}" for name in largest),
    }
    if summary.base_valid_loss is not None:
        facts["loss of the base"] = _loss(summary.base_valid_loss)
    for title, record in (("prompt", details.prompt), ("run", details.run)):
        for key, value in (record or {}).items():
            facts[f"{title} {key}"] = str(value)
    return facts


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _age(seconds: float) -> str:
    return f"{seconds / _DAY:.0f} d" if seconds >= _DAY else f"{seconds / 3600:.0f} h"
