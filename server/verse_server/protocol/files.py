"""Files on the wire, named like OpenAI's types."""

from typing import Literal

import msgspec

Purpose = Literal["fine-tune", "batch", "batch_output", "fine-tune-results"]
UPLOAD_PURPOSES = ("fine-tune", "batch")
"""Those that a client may give; the others are the server's own files."""


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """A file that can be named in a job or a batch."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    expires_at: int | msgspec.UnsetType = msgspec.UNSET


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is no more."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True
