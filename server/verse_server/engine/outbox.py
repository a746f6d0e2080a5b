"""How the engine thread delivers: one call per step and event loop."""

import asyncio
import logging
from dataclasses import dataclass, field

from verse_server.engine.job import Job
from verse_server.engine.mailbox import Event

_log = logging.getLogger(__name__)


@dataclass
class Outbox:
    """Gathers the events of one step, by the loop they go to."""

    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job, Event]]] = field(
        default_factory=dict[asyncio.AbstractEventLoop, list[tuple[Job, Event]]]
    )

    def add(self, job: Job, event: Event) -> None:
        """Put an event with the others of its loop."""
        self.by_loop.setdefault(job.loop, []).append((job, event))

    def send(self) -> None:
        """Deliver what is there, in one call per loop."""
        for loop, events in self.by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, events)
            except RuntimeError:  # the loop is closed: nobody waits there any more
                _log.debug("dropped %d events of a closed loop", len(events))
        self.by_loop.clear()


def _deliver(events: list[tuple[Job, Event]]) -> None:
    for job, event in events:
        job.mailbox.put(event)
