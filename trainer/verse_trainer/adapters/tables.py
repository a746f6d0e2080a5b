"""`list` and `show` for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from verse_trainer.adapters.facts import AdapterSummary, CheckpointFacts, Details, ModuleNorm

_DASH = "-"
_MAX_STEPS = 6
_DIGEST_CHARACTERS = 12


def list_table(summaries: Sequence[AdapterSummary], now: float) -> RenderableType:
    """Sound adapters in a table, broken folders below it with what is wrong."""
    table = Table(show_edge=False)
    table.add_column("name", no_wrap=True)
    for column in ("format", "rank", "scale", "checkpoints", "best", "valid loss", "base"):
        table.add_column(column, overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    for summary in summaries:
        if summary.problem is None:
            table.add_row(*map(Text, _row(summary, now)))
    broken = [Text(f"{s.name}: {s.problem}", "yellow") for s in summaries if s.problem is not None]
    return Group(table, *broken) if table.row_count else Group(*broken)


def show_page(details: Details, norms: Sequence[ModuleNorm], now: float) -> RenderableType:
    """Everything known of one adapter."""
    summary = details.summary
    facts = Table(show_header=False, box=None, title=Text(summary.name), title_justify="left")
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(details, now).items():
        facts.add_row(Text(name), Text(value))
    parts: list[RenderableType] = [facts, "", _checkpoints(details.checkpoints), "", _norms(norms)]
    parts += [Text(f"warning: {warning}", "yellow") for warning in details.warnings]
    return Group(*parts)


def _row(summary: AdapterSummary, now: float) -> tuple[str, ...]:
    return (
        summary.name,
        summary.format or _DASH,
        str(summary.rank),
        f"{summary.scale:g}",
        _steps(summary.checkpoints),
        _or_dash(summary.best_step),
        _loss(summary.valid_loss),
        summary.base or _DASH,
        size(summary.num_bytes),
        age(now - (summary.modified or now)),
    )


def _facts(details: Details, now: float) -> dict[str, str]:
    summary = details.summary
    facts = {
        "format": summary.format or _DASH,
        "rank": str(summary.rank),
        "scale": f"{summary.scale:g}",
        "base": summary.base or _DASH,
        "size": size(summary.num_bytes),
        "age": age(now - (summary.modified or now)),
        "valid loss": f"{_loss(summary.valid_loss)} (base {_loss(details.base_valid_loss)})",
        "prompt": _json(details.prompt_format) if details.prompt_format else "not recorded",
    }
    quiet = ("history", "lora_parameters", "fine_tune_type", "model", "best_step")
    config = {f"config {key}": v for key, v in details.config.items() if key not in quiet}
    parameters: dict[str, Any] = details.config.get("lora_parameters") or {}
    config |= {f"config {key}": v for key, v in parameters.items() if key not in ("rank", "scale")}
    run = {f"run {key}": value for key, value in (details.run or {}).items()}
    return facts | {key: _json(value) for key, value in (config | run).items()}


def _checkpoints(checkpoints: Sequence[CheckpointFacts]) -> Table:
    table = Table(show_edge=False)
    for column in ("weights", "train loss", "valid loss", "size", "digest"):
        table.add_column(column)
    for checkpoint in checkpoints:
        table.add_row(
            "published" if checkpoint.step is None else f"@{checkpoint.step}",
            _loss(checkpoint.train_loss),
            _loss(checkpoint.valid_loss),
            size(checkpoint.num_bytes),
            checkpoint.digest[:_DIGEST_CHARACTERS],
        )
    return table


def _norms(norms: Sequence[ModuleNorm]) -> Table:
    """Modules of one kind in one line: a large model has hundreds."""
    table = Table(show_edge=False)
    for column in ("module", "blocks", "in x out", "rank", "delta norm"):
        table.add_column(column)
    kinds: dict[str, list[ModuleNorm]] = {}
    for norm in norms:
        kinds.setdefault(norm.kind, []).append(norm)
    for kind, members in kinds.items():
        blocks = [m.block for m in members if m.block is not None]
        low, high = (pick(m.delta_norm for m in members) for pick in (min, max))
        table.add_row(
            Text(kind),
            _ranges(blocks) if blocks else _DASH,
            f"{members[0].in_dims} x {members[0].out_dims}",
            str(max(m.rank for m in members)),
            f"{low:.3g}" if len(members) == 1 else f"{low:.3g} to {high:.3g}",
        )
    return table


def _ranges(numbers: Sequence[int]) -> str:
    """`0-5, 9` for 0 1 2 3 4 5 9."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def _steps(steps: Sequence[int]) -> str:
    if len(steps) <= _MAX_STEPS:
        return ", ".join(map(str, steps)) or _DASH
    return f"{len(steps)}: {steps[0]} to {steps[-1]}"


def _loss(loss: float | None) -> str:
    return _DASH if loss is None else f"{loss:.3f}"


def _or_dash(value: int | None) -> str:
    return _DASH if value is None else str(value)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def size(num_bytes: float) -> str:
    """`0.6 MB`; a thousand bytes are a kilobyte, as on a disk's label."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def age(seconds: float) -> str:
    """`3 d`; the largest unit that is not zero."""
    units: Mapping[str, int] = {"d": 86400, "h": 3600, "min": 60}
    for unit, length in units.items():
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return "now"
