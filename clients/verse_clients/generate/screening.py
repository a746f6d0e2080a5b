"""Marks what repeats an earlier poem, copies a training poem or shows a model's thinking.

Nothing is dropped.
"""

from collections.abc import Iterable

import msgspec

from verse.records import Candidate, Poem
from verse.similarity import NearDuplicates
from verse.thinking import holds_tag
from verse_clients.copies import CopyCheck, CopyLimits

NEAR = 0.8
"""Edit ratio from which two poems count as nearly the same."""


class Screen:
    """Looks at poems in the order they come; the first of several alike is the one that stays.

    A poem that was cut off or blocked takes no whole one with it: nobody would see either.
    """

    def __init__(
        self,
        training: Iterable[Poem] = (),
        accepted: Iterable[Poem] = (),
        *,
        near: float = NEAR,
        limits: CopyLimits = CopyLimits(),  # noqa: B008
    ) -> None:
        """Know the poems that must not be copied or repeated."""
        self._copies = CopyCheck(limits)
        self._seen = NearDuplicates(near)
        self._standing = NearDuplicates(near)
        for poem in training:
            self._copies.add(f"《{poem.theme}》", poem.text)
        for poem in accepted:
            self._seen.add(poem.id, poem.text)
            self._standing.add(poem.id, poem.text)

    def remember(self, poem: Candidate) -> None:
        """Know a poem that was marked, by this run or an earlier one."""
        self._seen.add(poem.id, poem.text)
        if poem.blocked is None and not _is_cut(poem):
            self._standing.add(poem.id, poem.text)

    def marked(self, poem: Candidate) -> Candidate:
        """The poem with what speaks against it."""
        if not poem.text.strip():
            return msgspec.structs.replace(poem, blocked="empty")
        if holds_tag(poem.text):
            return msgspec.structs.replace(poem, blocked="thought")
        rival = self._standing.find(poem.text)
        twin = rival or self._seen.find(poem.text)
        copy = self._copies.find(poem.text)
        is_copy = copy is not None and copy.is_blocked
        is_duplicate = rival is not None or (twin is not None and _is_cut(poem))
        marked = msgspec.structs.replace(
            poem,
            duplicate_of=twin.key if twin else None,
            copied_from=copy.source if copy else None,
            copied_run=copy.run if copy else "",
            blocked="copy" if is_copy else "duplicate" if is_duplicate else None,
        )
        self.remember(marked)
        return marked


def _is_cut(poem: Candidate) -> bool:
    return poem.finish_reason == "length"
