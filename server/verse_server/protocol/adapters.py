"""`/v1/adapters`, its probe, and vLLM's loading and unloading on the wire."""

from typing import Literal

import msgspec

from verse_server.protocol.chat import TopLogprob
from verse_server.protocol.models import AdapterReport
from verse_server.protocol.sampling import NonEmpty, RequestStruct


class ResidentVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of an adapter that is in memory."""

    id: str
    """`xuzhimo`, or `xuzhimo@85` for a checkpoint."""
    digest: str
    slot: int
    pins: int
    """Requests that use it now."""


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of the adapters folder, and what has become of it."""

    id: str
    object: Literal["adapter"] = "adapter"
    state: Literal["resident", "on_disk", "unloaded", "refused"]
    """`on_disk` is loaded by the next request; `unloaded` only when it is loaded again."""
    digest: str | None
    """Version that the plain name means now."""
    resident: tuple[ResidentVersion, ...]
    """In slots; an older version stays while a request uses it."""
    report: AdapterReport | None
    error: str | None
    """Why it is refused."""


class AdapterList(msgspec.Struct, frozen=True, kw_only=True):
    """Every folder, by name."""

    object: Literal["list"] = "list"
    data: tuple[Adapter, ...]
    num_slots: int
    """Versions that can be resident at once."""


class ProbeRequest(RequestStruct, frozen=True):
    """What to measure an adapter on."""

    prompt: NonEmpty
    """A theme, as a user's message in the adapter's own format."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """How far an adapter moves the base's first token of an answer."""

    object: Literal["adapter.probe"] = "adapter.probe"
    model: str
    prompt_tokens: int
    kl_divergence: float
    """Of the base's distribution from the adapted one, in nats."""
    max_logit_change: float
    """0 means that the adapter changes nothing here."""
    mean_logit_change: float
    """Of the absolute changes, over the vocabulary."""
    top: tuple[TopLogprob, ...]
    """The likeliest first tokens with the adapter."""
    base_top: tuple[TopLogprob, ...]
    """And without."""


class LoadLoRAAdapterRequest(RequestStruct, frozen=True):
    """As vLLM takes it."""

    lora_name: NonEmpty
    """A name in the adapters folder, `xuzhimo` or `xuzhimo@85`."""
    lora_path: NonEmpty | None = None
    """That adapter's folder, absolute or below the adapters folder; any other place is refused."""
    load_inplace: bool | None = None
    """Changes nothing: files that have changed always replace what was loaded."""


class UnloadLoRAAdapterRequest(RequestStruct, frozen=True):
    """As vLLM takes it."""

    lora_name: NonEmpty
