"""`/v1/batches` on the wire, named as OpenAI names it: a file of requests, answered in bulk."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from verse_server.protocol.responses import InputTokensDetails, Metadata, OutputTokensDetails
from verse_server.protocol.shared import RequestStruct

BatchEndpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/responses"]


class OutputExpiresAfter(RequestStruct, frozen=True):
    """How long the files of a batch are kept."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2592000)]


class CreateBatchRequest(RequestStruct, frozen=True):
    """Which file to answer."""

    input_file_id: str
    """Of purpose `batch`: a line of JSON a request, with `custom_id`, `method`, `url`, `body`."""
    endpoint: BatchEndpoint
    """The `url` of all its lines."""
    completion_window: Literal["24h"]
    """Nothing is ended for having taken longer."""
    metadata: Metadata | None = None
    output_expires_after: OutputExpiresAfter | None = None


class BatchRow(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the file."""

    custom_id: str
    method: Literal["POST"]
    url: str
    body: msgspec.Raw


class BatchResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What the endpoint answers."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the output file, or of the error file if the status is not 200."""

    id: str
    custom_id: str
    response: BatchResponse
    error: None = None


class BatchRequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How far it has come."""

    total: int
    completed: int
    failed: int


class BatchError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with the file."""

    code: str
    message: str
    param: str | None
    line: int | None
    """From 1."""


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    """All that is wrong with it, as far as it was read."""

    object: Literal["list"] = "list"
    data: tuple[BatchError, ...]


class BatchUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts of all answers so far."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """A batch, as far as it has come."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: str
    errors: BatchErrors | UnsetType = UNSET
    output_file_id: str | UnsetType = UNSET
    error_file_id: str | UnsetType = UNSET
    created_at: int
    in_progress_at: int | UnsetType = UNSET
    finalizing_at: int | UnsetType = UNSET
    completed_at: int | UnsetType = UNSET
    failed_at: int | UnsetType = UNSET
    cancelling_at: int | UnsetType = UNSET
    cancelled_at: int | UnsetType = UNSET
    request_counts: BatchRequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None


class BatchList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: tuple[BatchObject, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool
