"""Copies and near-duplicates among many texts, beside difflib and rapidfuzz.

    uv run python -m benchmarks.similarity [--sources 5000] [--poems 1000] [--output FILE]

Sources and poems are of 200 characters, made by a chain of pairs of characters from
data/poems.jsonl, so that they share more runs than poems of one poet do. One poem in ten takes a
run of 20 to 60 characters from a source; one in ten is a source with every tenth character changed.

longest run     CopyIndex; beside it `difflib.SequenceMatcher.find_longest_match`, source by source,
                and rapidfuzz. It has no longest common substring; `fuzz.partial_ratio` over all
                sources is what its users take, and answers another question (the best window).
most alike      NearDuplicates at 0.8; beside it `process.extractOne` with `fuzz.ratio` over all,
                which is exact too, and `difflib.SequenceMatcher.ratio`, source by source

difflib and rapidfuzz are measured on the first poems and scaled to all; what they find there, apart
from `partial_ratio`, must be what Verse finds, or the run fails. Seconds are CPU time of one core.
"""

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from rapidfuzz import fuzz, process

from benchmarks.parties import ROOT, machine
from verse import jsonl
from verse.records import Poem
from verse.similarity import NEAR, CopyIndex, NearDuplicates, comparison_key

LENGTH = 200
MIN_RUN = 8


def make_texts(num_sources: int, num_poems: int) -> tuple[list[str], list[str]]:
    """Sources and poems, the same in every run, in the form in which they are compared."""
    rng = random.Random(0)
    known = jsonl.read(ROOT / "data" / "poems.jsonl", msgspec.json.Decoder(Poem))
    pile = comparison_key("".join(poem.text for poem in known))
    following: dict[str, list[str]] = defaultdict(list)
    for one, other in pairwise(pile):
        following[one].append(other)

    def write() -> str:
        text = rng.choice(pile)
        while len(text) < LENGTH:
            text += rng.choice(following.get(text[-1]) or pile)
        return text

    sources = [write() for _ in range(num_sources)]
    poems = [write() for _ in range(num_poems)]
    for number in range(0, num_poems, 10):
        source, start, size = rng.choice(sources), rng.randrange(140), rng.randint(20, 60)
        poems[number] = poems[number][:60] + source[start : start + size] + poems[number][120:]
    for number in range(5, num_poems, 10):
        source = rng.choice(sources)
        poems[number] = "".join(
            rng.choice(pile) if place % 10 == 0 else char for place, char in enumerate(source)
        )
    return sources, poems


def seconds_of(work: Callable[[str], Any], poems: Sequence[str]) -> tuple[float, list[Any]]:
    """How long it takes for all poems, and what is found."""
    begin = time.process_time()
    found = [work(poem) for poem in poems]
    return time.process_time() - begin, found


def longest_by_difflib(sources: Sequence[str]) -> Callable[[str], int]:
    """The length of the longest run, 0 below the least."""

    def find(poem: str) -> int:
        matcher = SequenceMatcher(None, autojunk=False)
        matcher.set_seq2(poem)
        longest = 0
        for source in sources:
            matcher.set_seq1(source)
            longest = max(longest, matcher.find_longest_match().size)
        return longest if longest >= MIN_RUN else 0

    return find


def alike_by_difflib(sources: Sequence[str]) -> Callable[[str], float]:
    """The highest ratio; difflib's is not the edit ratio, but near it."""

    def find(poem: str) -> float:
        matcher = SequenceMatcher(None, autojunk=False)
        matcher.set_seq2(poem)
        best = 0.0
        for source in sources:
            matcher.set_seq1(source)
            if matcher.quick_ratio() >= max(NEAR, best):
                best = max(best, matcher.ratio())
        return best

    return find


def main() -> None:
    """Measure, check, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sources", type=int, default=5000)
    parser.add_argument("--poems", type=int, default=1000)
    parser.add_argument("--difflib", type=int, default=2, help="poems it is measured on")
    parser.add_argument("--rapidfuzz", type=int, default=20, help="poems it is measured on")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    sources, poems = make_texts(options.sources, options.poems)
    table: dict[str, float] = {}

    def scaled(name: str, work: Callable[[str], Any], num_poems: int) -> list[Any]:
        seconds, found = seconds_of(work, poems[:num_poems])
        table[name] = seconds * len(poems) / num_poems
        return found

    begin = time.process_time()
    copies = CopyIndex(MIN_RUN)
    for number, source in enumerate(sources):
        copies.add(str(number), source)
    table["longest run: build"] = time.process_time() - begin
    runs = scaled("longest run: Verse", copies.find, len(poems))
    theirs = scaled("longest run: difflib", longest_by_difflib(sources), options.difflib)
    assert theirs == [len(copy.run) if copy else 0 for copy in runs[: len(theirs)]]
    partial = lambda poem: process.extractOne(poem, sources, scorer=fuzz.partial_ratio)  # noqa: E731
    scaled("longest run: rapidfuzz partial_ratio", partial, options.rapidfuzz)

    begin = time.process_time()
    near = NearDuplicates()
    for number, source in enumerate(sources):
        near.remember(str(number), source)
    table["most alike: build"] = time.process_time() - begin
    alike = scaled("most alike: Verse", near.find, len(poems))
    cutoff = 100 * NEAR
    exact = lambda poem: process.extractOne(  # noqa: E731
        poem, sources, scorer=fuzz.ratio, score_cutoff=cutoff
    )
    theirs = scaled("most alike: rapidfuzz extractOne", exact, max(options.rapidfuzz, 100))
    assert [one and (one[2], one[1] / 100) for one in theirs] == [
        one and (int(one.key), one.ratio) for one in alike[: len(theirs)]
    ]
    scaled("most alike: difflib", alike_by_difflib(sources), options.difflib)

    print(f"{machine()}\n{len(sources)} sources, {len(poems)} poems of {LENGTH} characters")
    print(f"{sum(map(bool, runs))} poems with a run of {MIN_RUN}; {sum(map(bool, alike))} near one")
    for name, seconds in table.items():
        own = table[f"{name.partition(':')[0]}: Verse"]
        print(f"{name:40}{seconds:10.2f} s{seconds / own:12.1f}x")
    if options.output:
        options.output.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
