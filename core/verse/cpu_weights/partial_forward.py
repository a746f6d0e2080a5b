"""A forward of which a part is known already, or not needed.

Below the lowest layer that an adapter changes, all adapters and the base compute the same for the
same tokens. Who notes what goes into that layer for one of them can give it to the next, whose
forward then begins there. And of a prompt nobody needs the last layer's output but for the last
token: the keys and values are all that the others leave behind.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from mlx_lm.models import base

from verse.cpu_weights.packed import Host


@dataclass(kw_only=True)
class PartialForward:
    """What is different about one forward; as it is made, nothing is.

    Attributes:
        layer: Where `known` goes in.
        known: (rows, tokens, dims), the input of `layer` for tokens before those that come from
            below; keys and values of the layers below are in the cache already.
        is_all_known: Nothing comes from below: the layers there are left out.
        noted: By layer, its input as it comes from below, (rows, tokens, dims).
        is_last_needed: Whether the last token's output is all that is asked for.
    """

    layer: int = 0
    known: Host | None = None
    is_all_known: bool = False
    wanted: Collection[int] = ()
    """Layers whose inputs are noted."""
    noted: dict[int, Host] = field(default_factory=dict[int, Host])
    is_last_needed: bool = False
    _mask: Any = None

    def leaves_out(self, layer: int) -> bool:
        """Whether this layer is not computed."""
        return self.is_all_known and layer < self.layer

    def into(self, layer: int, x: Host, mask: Any, cache: Any) -> tuple[Host, Any]:
        """What goes into a layer, and the mask that belongs to it.

        Args:
            layer: Its number.
            x: (rows, tokens, dims), from below.
            mask: As the model made it, for the tokens it was called with.
            cache: The layer's.
        """
        if layer in self.wanted:
            self.noted[layer] = x.copy()
        if self.known is None or layer < self.layer:
            return x, mask
        if layer == self.layer:
            x = self.known if self.is_all_known else np.concatenate([self.known, x], axis=1)
            self._mask = cast(Any, base).create_attention_mask(x, cache)
        return x, self._mask
