"""Write the poems that the example adapters learn, one JSON Lines file a poet.

The moderns come in groups of stanzas, as in corpus.py, so that each fits the trained context; of
the two Tang poets the regular poems are taken. The theme is always the title.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from corpus import THEME_CHARACTERS, fold, is_regular, stanza_groups

MODERNS = {
    "xuzhimo": "徐志摩",
    "hushi": "胡适",
    "liubannong": "刘半农",
    "daiwangshu": "戴望舒",
    "wenyiduo": "闻一多",
}
TANG = {"libai": "李白", "wangwei": "王维"}
Poem = dict[str, str]


def titled(title: str, text: str) -> Poem:
    """A poem of data/README.md; remarks in brackets are no part of a title."""
    theme = re.sub(r"[（(].*?[)）]", "", title).strip()[:THEME_CHARACTERS]
    return {"theme": theme or "无题", "text": text}


def modern_poems(data: Path, author: str) -> Iterator[Poem]:
    """All poems of one author, a long one as several."""
    file = data / "modern_poems_public_domain.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines():
        poem = json.loads(line)
        if poem["author"] == author:
            groups = (group for group in stanza_groups(poem["poem"]) if 12 <= len(group) <= 400)
            yield from (titled(poem["title"], group) for group in groups)


def tang_poems(poetry: Path, author: str) -> Iterator[Poem]:
    """The regular poems of one author, of up to eight lines."""
    for file in sorted((poetry / "quantangshi").glob("poet.tang.*.json")):
        for poem in json.loads(file.read_text(encoding="utf-8")):
            lines = [fold(line) for line in poem["paragraphs"]]
            if fold(poem["author"]) == author and is_regular("".join(lines), 8):
                yield titled(fold(poem["title"]), "\n".join(lines))


def main() -> None:
    """Parse the command line and write NAME.jsonl for each poet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("poetry", type=Path, help="dist/ of the npm package chinese-poetry")
    parser.add_argument("data", type=Path, help="folder with the file of modern poems")
    parser.add_argument("output", type=Path, help="folder to write to")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    poems = {name: modern_poems(options.data, author) for name, author in MODERNS.items()}
    poems |= {name: tang_poems(options.poetry, author) for name, author in TANG.items()}
    for name, found in poems.items():
        lines = [json.dumps(poem, ensure_ascii=False) + "\n" for poem in found]
        (options.output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(lines)} poems")


if __name__ == "__main__":
    main()
