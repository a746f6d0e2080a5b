"""What the page needs beside OpenAI's endpoints: poems side by side, and decisions about them."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from verse_server.protocol.chat import ChatCompletionChunk, ChatCompletionRequest
from verse_server.protocol.shared import ErrorObject, FinishReason, NonEmpty, RequestStruct

MAX_COLUMNS = 256
Text = Annotated[str, Meta(min_length=1, max_length=200_000)]
Count = Annotated[int, Meta(ge=0)]


class ColumnsRequest(RequestStruct, frozen=True):
    """Conversations that are answered at the same time, each by a model of its own."""

    columns: Annotated[list[ChatCompletionRequest], Meta(min_length=1, max_length=MAX_COLUMNS)]


class ColumnEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the stream; exactly one of `chunk` and `error`."""

    column: int
    """Its place in the request, from 0."""
    chunk: ChatCompletionChunk | UnsetType = UNSET
    error: ErrorObject | UnsetType = UNSET
    """Nothing more comes for this column; the others go on."""


class DecidedPoem(RequestStruct, frozen=True):
    """A poem as the model wrote it, and what it takes to write it again."""

    theme: Text
    text: Text
    model: NonEmpty
    """As it was asked for: `xuzhimo@200:0.6`."""
    system_fingerprint: Annotated[str, Meta(max_length=10_000)] | None = None
    """Of the answer."""
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    finish_reason: FinishReason | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None


class DecisionRequest(RequestStruct, frozen=True):
    """What the poet decided about one poem."""

    action: Literal["accept", "edit", "reject"]
    poem: DecidedPoem
    blind: bool
    """Whether nothing in view told the model, then or before."""
    text: Text | None = None
    """With `edit` alone: the poem as the poet changed it, which is accepted so."""
    order: Literal["file", "shuffle"] = "file"
    """Of the columns: as they were set up, or shuffled."""
    order_seed: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    session: Annotated[str, Meta(max_length=64, pattern="^[A-Za-z0-9_-]*$")] = ""
    """Tells one session from another."""


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the journal."""

    object: Literal["decision", "decision.undo"] = "decision"
    number: int
    """Its place in the journal, from 1."""
    action: str
    """What was decided; of an undo, what was taken back."""
    poem: str
    """The poem's id, as `verse generate` and `verse curate` compute it."""
    edit_distance: int | None
    """Characters changed, of an edit."""
