"""Asks a running server for more poems on a theme, in a thread of its own, and keeps them.

The source file is never rewritten, so new poems go to `decisions.more.jsonl` beside the journal;
opening the journal reads them again.
"""

import random
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from verse import UserError, jsonl
from verse.prompt import Message
from verse.records import Candidate
from verse.thinking import holds_tag, split_thought
from verse_clients.answers import Answer
from verse_clients.chat_prompts import messages
from verse_clients.curate import WriterError
from verse_clients.decisions.sources import Item, read_items

NUM_POEMS = 2
_SEED_LIMIT = 2**31


class Written(NamedTuple):
    """What came of asking: poems, or why there are none."""

    theme: str
    poems: Sequence[Candidate] = ()
    problem: str = ""
    by_name: bool = False
    """Whether the user named the model that was asked."""


class PoemServer(Protocol):
    """What is asked; see `openai_client.Server`."""

    base_url: str

    def models(self) -> list[str]:
        """Names of the models."""
        ...

    def write(self, model: str, messages: Sequence[Message], *, seed: int | None = None) -> Answer:
        """One answer."""
        ...


class More:
    """Writes poems like a given one; one request at a time."""

    def __init__(
        self,
        connect: Callable[[], PoemServer],
        file: Path,
        model: str | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Nothing is sent until `ask`.

        Args:
            connect: Makes the server's client, in the thread that uses it.
            file: Where new poems are kept.
            model: The model to ask; the poem's own adapter if None.
            rng: Draws the seeds.
        """
        self._connect = connect
        self._file = file
        self._model = model
        self._rng = rng or random.Random()
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether poems are being written."""
        return self._thread is not None and self._thread.is_alive()

    def ask(self, like: Item, report: Callable[[Written], object]) -> bool:
        """Write poems on the theme of `like`; returns at once.

        `report` is called from the other thread, once. Returns whether the request was taken: it is
        not while another one is under way.
        """
        if self.is_busy:
            return False
        self._thread = threading.Thread(
            target=self._write_and_report, args=(like, report), daemon=True, name="curate-more"
        )
        self._thread.start()
        return True

    def _write_and_report(self, like: Item, report: Callable[[Written], object]) -> None:
        written = Written(like.candidate.theme, problem="Something went wrong; no poems came.")
        try:
            written = self._written(like)
        finally:  # a fault of ours ends the thread, and the window hears of it all the same
            report(written)

    def _written(self, like: Item) -> Written:
        theme = like.candidate.theme
        try:
            poems = self.write(like)
            jsonl.append(self._file, *poems)
        except UserError as error:
            return Written(theme, problem=str(error))
        except OSError as error:
            return Written(theme, problem=f"{self._file} cannot be written: {error.strerror}.")
        return Written(theme, poems, by_name=self._model is not None)

    def write(self, like: Item) -> list[Candidate]:
        """Write poems on the theme of `like` and wait for them.

        Raises:
            UserError: the server is away, refuses, or writes nothing.
        """
        server = self._connect()
        adapter = self._adapter(server, like)
        poems = [self._one(server, adapter, like, number) for number in range(NUM_POEMS)]
        written = [poem for poem in poems if poem.text.strip()]
        if not written:
            did = "sent thoughts and no poem" if any(p.raw for p in poems) else "returned no poem"
            raise WriterError(f"{server.base_url} {did} on {like.candidate.theme}.")
        return written

    def _adapter(self, server: PoemServer, like: Item) -> str:
        """The model asked for, the poem's own, or the first the server has."""
        if self._model or like.candidate.adapter:
            return self._model or like.source
        models = server.models()
        if not models:
            raise WriterError(f"{server.base_url} has no model.")
        return models[0]

    def _one(self, server: PoemServer, model: str, like: Item, number: int) -> Candidate:
        seed = self._rng.randrange(_SEED_LIMIT)
        prompt = messages(like.candidate.variant, like.candidate.theme)
        answer = server.write(model, prompt, seed=seed)
        text = split_thought(answer.text).answer.strip("\n")
        own = self._model is None
        return Candidate(
            theme=like.candidate.theme,
            text=text,
            adapter=like.candidate.adapter if own else self._model,
            digest=answer.fingerprint,
            checkpoint=like.candidate.checkpoint if own else None,
            variant=like.candidate.variant,
            sample=number,
            seed=seed,
            finish_reason="length" if answer.finish_reason == "length" else "stop",
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            time=datetime.now(UTC),
            server=server.base_url,
            raw=None if text == answer.text.strip("\n") else answer.text,
            blocked="thought" if holds_tag(text) else None,
        )


def more_file(journal: Path) -> Path:
    """The file beside a journal that keeps poems asked for."""
    return journal.with_name(f"{journal.stem}.more.jsonl")


def read_more(journal: Path, first: int) -> list[Item]:
    """The poems asked for so far, numbered from `first` on."""
    file = more_file(journal)
    if not file.exists() or not file.read_bytes().strip():
        return []
    jsonl.set_torn_line_aside(file)
    numbered = enumerate(read_items([file]), first)
    return [Item(candidate=item.candidate, number=number) for number, item in numbered]
