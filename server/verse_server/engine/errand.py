"""What the engine thread does for somebody between two steps, besides writing."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from verse.base_model import BaseModel
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.adapters.residency import AdapterResidency


@dataclass(frozen=True)
class Owned:
    """What no other thread may touch."""

    base: BaseModel
    bank: LoraBank
    residency: AdapterResidency


@dataclass(frozen=True, eq=False)
class Errand:
    """Something to be done once these adapters may be pinned, and where its outcome goes."""

    digests: tuple[str, ...]
    action: Callable[[Owned], Any]
    outcome: "Future[Any]" = field(default_factory=Future[Any])

    def run(self, owned: Owned) -> None:
        """Do it, unless nobody waits for it any more. Raises nothing."""
        if not self.outcome.set_running_or_notify_cancel():
            return
        try:
            self.outcome.set_result(self.action(owned))
        except Exception as error:  # noqa: BLE001  (raised where the outcome is awaited)
            self.outcome.set_exception(error)

    def refuse(self, error: Exception) -> None:
        """It will never be done."""
        if self.outcome.set_running_or_notify_cancel():
            self.outcome.set_exception(error)
