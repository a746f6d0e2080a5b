"""From what a client asks to what `verse train` is told. Pure.

`auto` is what suits the base: its presets' rate, as many epochs and rows a step as they have. The
multiplier is of that rate.
"""

from typing import Any

import msgspec

from verse_server.state.jobs import JobPlan

SMALL_BASE_PARAMETERS = 100_000_000
"""A base this small learns nothing at the rates of a large one."""
_RATES = {"supervised": (1e-3, 1e-4), "dpo": (5e-5, 5e-6)}
"""For a small base, and for any other."""
_NUM_EPOCHS = 15
_BATCH_SIZES = (4, 2)
_METHODS = {"supervised": "sft", "dpo": "dpo"}


class AskedFor(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a request; None stands for `auto`."""

    method: str
    num_epochs: int | None
    batch_size: int | None
    learning_rate_multiplier: float | None
    beta: float | None
    seed: int
    settings: dict[str, Any]
    """Of `verse train`, by its names; they win over the rest."""


def training_keys(asked: AskedFor, num_base_parameters: int) -> dict[str, Any]:
    """The keys of a configuration, all but the places of files."""
    is_large = num_base_parameters >= SMALL_BASE_PARAMETERS
    rate = _RATES[asked.method][is_large] * (asked.learning_rate_multiplier or 1.0)
    keys: dict[str, Any] = {
        "method": _METHODS[asked.method],
        "epochs": asked.num_epochs or _NUM_EPOCHS,
        "batch_size": asked.batch_size or _BATCH_SIZES[is_large],
        "learning_rate": rate,
        "seed": asked.seed,
    }
    if asked.method == "supervised":
        keys["lr_schedule"] = {"name": "cosine_decay", "warmup": 0.05}
    if asked.beta is not None:
        keys["beta"] = asked.beta
    if "iters" in asked.settings:
        del keys["epochs"]
    return {**keys, **asked.settings}


def training_request(
    plan: JobPlan,
    *,
    model: str,
    data: str,
    adapter_path: str,
    start: str | None,
    resume: bool,
    check: bool,
) -> dict[str, Any]:
    """The trainer's `TrainRequest`.

    Args:
        plan: What was asked.
        model: The base's folder or id.
        data: The folder with the rows.
        adapter_path: The folder to write.
        start: The file with the weights to begin with; None begins anew.
        resume: Go on with what is in it.
        check: Only read the rows.
    """
    places = {"model": model, "data": data, "adapter_path": adapter_path, "resume": resume}
    if start is not None:
        places["resume_adapter_file"] = start
    return {"keys": {**plan.keys, **places}, "check": check}


def adapter_names(base_id: str, suffix: str | None, job_id: str) -> list[str]:
    """Names for the adapter, the nicest one first; the last one is never taken."""
    last = job_id.rpartition("-")[2]
    if suffix is None:
        return [f"{base_id.rpartition('/')[2]}-{last[:6]}", f"{base_id.rpartition('/')[2]}-{last}"]
    return [suffix, *(f"{suffix}-{number}" for number in range(2, 100)), f"{suffix}-{last}"]
