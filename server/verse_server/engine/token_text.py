"""The text and the bytes of single tokens, for reports of log-probabilities."""

from functools import cached_property
from typing import Any, cast

from mlx_lm.tokenizer_utils import TokenizerWrapper
from transformers.convert_slow_tokenizer import bytes_to_unicode

from verse_server.engine.types import TokenLogprob, TokenText


class TokenTexts:
    """Tells what a token stands for; a token of a byte-level tokenizer may be half a character."""

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._tokenizer = cast(Any, tokenizer)

    def bytes_of(self, token: int) -> bytes:
        """The bytes that this token adds to a text."""
        name = cast(str | None, self._tokenizer.convert_ids_to_tokens(token))
        if name is None:  # a row of the embedding that no token uses
            return b""
        if token not in self._added and all(character in self._byte_of for character in name):
            return bytes(self._byte_of[character] for character in name)
        return cast(str, self._tokenizer.decode([token])).encode()

    def logprob(
        self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        """A token's entry in a report."""
        text = self.text(token)
        return TokenLogprob(token=text.token, bytes=text.bytes, logprob=logprob, top=top)

    def text(self, token: int) -> TokenText:
        """A token alone."""
        content = self.bytes_of(token)
        return TokenText(token=content.decode("utf-8", "replace"), bytes=tuple(content))

    @cached_property
    def _added(self) -> set[int]:
        return set(cast(dict[str, int], self._tokenizer.get_added_vocab()).values())

    @cached_property
    def _byte_of(self) -> dict[str, int]:
        """Byte-level tokenizers write every byte as one printable character (GPT-2)."""
        return {character: byte for byte, character in bytes_to_unicode().items()}
