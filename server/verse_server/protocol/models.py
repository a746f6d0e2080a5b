"""`/v1/models` on the wire: OpenAI's four fields, and what a poet wants to know of an adapter."""

from typing import Literal

import msgspec


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One numbered state of an adapter."""

    id: str
    """What to put into a request's `model` field: `xuzhimo@200`."""
    step: int
    bytes: int


class AdapterReport(msgspec.Struct, frozen=True, kw_only=True):
    """What loading the adapter did to the base."""

    format: str
    matched: int
    """Modules of the base that the adapter changes."""
    unmatched: tuple[str, ...]
    rank: int
    scale: float
    delta_norm: float | None
    """Size of the whole update (Frobenius norm); null until the adapter was first used."""
    bytes: int
    digest: str
    recorded_base: str | None
    warnings: tuple[str, ...]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The base, an adapter, or one checkpoint of an adapter."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Unix seconds: when the weights were written."""
    owned_by: str = "verse"
    parent: str | None
    """What it was made from: the base for an adapter, the adapter for a checkpoint."""
    root: str
    """The base at the root of the line."""
    checkpoints: tuple[Checkpoint, ...]
    digest: str | None
    """Version of the weights, their config and their prompt format."""
    prompt_format: str | None
    system: str | None
    """The system message used when a request brings none."""
    report: AdapterReport | None


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The base, then every adapter that can be served; each names its checkpoints."""

    object: Literal["list"] = "list"
    data: tuple[Model, ...]
