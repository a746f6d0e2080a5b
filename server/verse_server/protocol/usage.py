"""Token counts on the wire."""

import msgspec


class PromptTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the prompt's tokens."""

    cached_tokens: int
    """Computed for an earlier request, and reused."""


class CompletionUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts; end tokens are counted, and the prompt once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
