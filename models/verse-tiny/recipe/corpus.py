"""Write docs.json, the texts of the base: poems as (kind, theme, text), and prose.

Classical verse: Tang poems of regular lines of 5 or 7 characters, a sample of such quatrains of the
Song, and short Song ci; traditional characters are folded to simplified ones. Modern verse in the
public domain is scarce (100,000 characters), so it is cut into groups of stanzas and repeated.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import opencc

SONG_SAMPLE = 28_000
MODERN_REPEATS = 14
STANZAS_CHARACTERS = 220
THEME_CHARACTERS = 20
PAIRS = "故乡春风明月落花秋风江南夕阳流水白云青山相思离别"
LATER_PAIRS = "生命黄昏清晨孤独时间母亲孩子"
THEMES = (
    *"河山雨月春秋雪风花夜江云柳梅竹松酒梦雁舟鸟星海天日灯钟草桥城客",
    *map("".join, zip(PAIRS[::2], PAIRS[1::2], strict=True)),
    *"归愁泪心爱死",
    *map("".join, zip(LATER_PAIRS[::2], LATER_PAIRS[1::2], strict=True)),
    *"光影",
    "声音",
    *"窗路叶石火田雷露霜冬夏湖泉琴书剑马莲菊桃燕蝉萤",
)
WESTERN_MARKS = str.maketrans(",;?!", "，；？！")

Document = tuple[str, str, str]
fold = opencc.OpenCC("t2s").convert


def theme_of(title: str, text: str) -> str:
    """For half of the poems a word they contain, for the others their title."""
    found = [theme for theme in THEMES if theme in text]
    if found and random.random() < 0.5:
        return random.choice(found)
    return re.sub(r"[（(].*?[)）]", "", title).strip()[:THEME_CHARACTERS] or "无题"


def is_regular(text: str, max_lines: int) -> bool:
    """Whether all lines have 5 characters, or all 7, and nothing is missing or annotated."""
    if not 20 <= len(text) <= 72 or re.search(r"[□（(\[《{a-zA-Z]", text):
        return False
    lines = [line for line in re.split(r"[，。？！；、]", text) if line]
    return {len(line) for line in lines} in ({5}, {7}) and len(lines) <= max_lines


def regular_verse(files: list[Path], max_lines: int) -> Iterator[Document]:
    """Regular poems of the package's files, in order."""
    for file in files:
        for poem in json.loads(file.read_text(encoding="utf-8")):
            lines = [fold(line) for line in poem["paragraphs"]]
            text = "".join(lines)
            if is_regular(text, max_lines):
                yield "古诗", theme_of(fold(poem["title"]), text), "\n".join(lines)


def song_ci(files: list[Path]) -> Iterator[Document]:
    """Short ci; the tune stands for the theme."""
    for file in files:
        for poem in json.loads(file.read_text(encoding="utf-8")):
            text = "".join(poem["paragraphs"])
            if 20 <= len(text) <= 110 and not re.search(r"[□（(]", text):
                tune = poem.get("rhythmic", "")[:THEME_CHARACTERS] or "无题"
                yield "词", tune, "\n".join(poem["paragraphs"])


def stanza_groups(poem: str) -> list[str]:
    """A long poem as several: stanzas together while they stay short."""
    groups, group = [], ""
    for stanza in poem.split("\n\n"):
        if group and len(group) + len(stanza) > STANZAS_CHARACTERS:
            groups.append(group)
            group = ""
        group = (group + "\n\n" + stanza).strip()
    return [*groups, group]


def modern_verse(file: Path) -> Iterator[Document]:
    """Every group of stanzas several times, each time under a theme drawn anew."""
    for line in file.read_text(encoding="utf-8").splitlines():
        poem = json.loads(line)
        for text in stanza_groups(poem["poem"]):
            if 12 <= len(text) <= 400:
                for _ in range(MODERN_REPEATS):
                    yield "现代诗", theme_of(poem["title"], text), text


def all_documents(poetry: Path, data: Path) -> Iterator[Document]:
    """All poems; the seed and this order decide the themes."""
    yield from regular_verse(sorted((poetry / "quantangshi").glob("poet.tang.*.json")), 8)
    song = sorted((poetry / "quantangshi").glob("poet.song.*.json"))
    random.shuffle(song)
    yield from islice(regular_verse(song, 4), SONG_SAMPLE)
    yield from song_ci(sorted((poetry / "songci").glob("ci.song.*.json")))
    yield from modern_verse(data / "modern_poems_public_domain.jsonl")


def all_prose(data: Path) -> list[str]:
    """Lu Xun's prose, with Chinese punctuation."""
    lines = (data / "luxun_public_domain.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"].translate(WESTERN_MARKS) for line in lines]


def main() -> None:
    """Parse the command line and write docs.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("poetry", type=Path, help="dist/ of the npm package chinese-poetry")
    parser.add_argument("data", type=Path, help="folder with the two files of modern texts")
    parser.add_argument("output", type=Path, help="folder to write docs.json to")
    options = parser.parse_args()
    random.seed(0)
    documents, prose = list(all_documents(options.poetry, options.data)), all_prose(options.data)
    options.output.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"docs": documents, "prose": prose}, ensure_ascii=False)
    (options.output / "docs.json").write_text(content, encoding="utf-8")
    characters = sum(len(text) for _, _, text in documents)
    print(f"{len(documents)} poems of {characters} characters, {sum(map(len, prose))} of prose")


if __name__ == "__main__":
    main()
