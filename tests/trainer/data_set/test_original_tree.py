"""A folder with all that the original project has on its disk: its poems, and nothing else.

The names and shapes are those of its tree; every text is our own.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.trainer.data_set.original import generated, listed, seed_text, write_lines
from verse import jsonl
from verse.records import Poem
from verse_trainer.data_set.importing import import_poems, sentence_of, survey

CODE = '#!/usr/bin/env python3\nimport os\n\n\ndef main():\n    print("poems")\n\n\nmain()\n'
PROSE = "这个项目用一百多首诗训练语言模型，并且把生成、筛选和编辑连成一条流水线，都写在下面。\n" * 4
MANUAL = f"# 说明\n\n{PROSE}\n```bash\npython generate3.py -p 河\n```\n\n{PROSE}"
CARD = """---
base_model: mlx-community/base
tags:
- mlx
---

# somebody/base-poem-8bit

The Model [somebody/base-poem-8bit](https://huggingface.co/somebody/base-poem-8bit) was
converted to MLX format using mlx-lm version **0.21.0**.

## Use with mlx

```bash
pip install mlx-lm
```
"""
ASKED = """--------
{time}Prompt : You will be given poems of a topic, each with a unique checkpoint number.
Evaluate these poems and rank them from best (1) to worst (N).

Here are the poems:
[Checkpoint 200]
{poem}

Explanation : The first poem stands out for its imagery and its restrained tone.
--------
"""
SYSTEM = "<|im_start|>system 写一首现代诗<|im_end|> "
STARTS = "河灯岸雨雪"
ENDS = "在等船来了又走过桥头看水"


def text(number: int) -> str:
    """Three short lines, of every number others."""
    start, end = STARTS[number % 5], ENDS[number % 12]
    return f"{start}{end}\n第{number}盏灯\n{end}没有回头"


def dump(path: Path, content: object, indent: int | None = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=indent), "utf-8")


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")


def made(first: int, count: int) -> list[dict[str, Any]]:
    return [
        generated(f"题{n % 36}", text(n)) | {"prompt": f"{SYSTEM}<|im_start|>user 题{n % 36}"}
        for n in range(first, first + count)
    ]


def by_theme(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    themes: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        minimized = {key: row[key] for key in row if key != "prompt"} | {"minimized": True}
        themes.setdefault(row["title"], []).append(minimized)
    return themes


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "Personalized-Poems"
    (folder / "data" / ".ipynb_checkpoints").mkdir(parents=True)
    for name in ("generate.py", "generate3.py", "process2.py", "tk_app.py", "utils/add_id.py"):
        write(folder / name, CODE)
    for name in ("README.md", "TECHNICAL_DETAILS.md", "research.md", "step_by_step_analysis.md"):
        write(folder / name, MANUAL)
    write(folder / ".gitignore", ".DS_Store\ndata/train*\n")
    write(folder / "env" / "requirements.txt", "mlx==0.22.0\nmlx-lm==0.21.1\nopenai==1.63.2\n")
    write(folder / "yaml" / "lora5.yaml", "model: base\ndata: ./data\nlora:\n  rank: 4\n")
    dump(folder / "32b_adapters" / "adapter_config.json", {"model": "base", "num_layers": 16})
    source = {"cell_type": "code", "source": ["print(1)"], "outputs": [{"text": [text(1)]}]}
    dump(folder / "Untitled.ipynb", {"cells": [source], "metadata": {}, "nbformat": 4})
    valid = ({"text": f"古题{n}\n<|end|>\n{text(2000 + n)}"} for n in range(40))
    write_lines(folder / "data" / "valid.jsonl", *valid)
    hidden = folder / "data" / ".ipynb_checkpoints" / "train-checkpoint.jsonl"
    write_lines(hidden, *({"text": seed_text(f"题{n}", text(3000 + n))} for n in range(5)))
    own = [{"title": f"诗{n}", "body": text(4000 + n)} for n in range(66)]
    dump(folder / "input" / "cleaned_poems.json", [*own, own[6]], 4)
    accepted = [listed(n, text(5000 + n), accepted=True) for n in range(40)]
    dump(folder / "input" / "poem_accept.json", accepted, None)
    undecided = [listed(n, text(6000 + n)) for n in range(90)]
    dump(folder / "input" / "overall_poems.json.backup", undecided)
    write(folder / "input" / "words.txt", " ".join(f"{s}{e}" for s in STARTS for e in ENDS))
    prompts = (f"{SYSTEM}<|im_start|>user 题{n}<|im_end|> <|im_start|>assistant" for n in range(9))
    write(folder / "input" / "prompt_templates.txt", "\n".join(prompts) + "\n")
    rows = made(0, 180)
    outputs = folder / "output"
    dump(outputs / "test1.json", rows)
    dump(outputs / "test1_best.json", by_theme(rows[:72]))
    dump(outputs / "output.json", by_theme(rows[:72]), 4)
    dump(outputs / "structured.json", [r for rs in by_theme(rows[:72]).values() for r in rs], 4)
    dump(outputs / "小雪_best.json", by_theme(rows[:1]))
    write(outputs / "test1.txt", "".join(f"{row['body']}\n\n" for row in rows))
    write(outputs / "小雪.txt", "".join(f"{row['body']}\n\n" for row in rows[:5]))
    times = ("2025-02-23 20:50:41 - ", "")
    log = (ASKED.format(time=times[n % 2], poem=text(n)) for n in range(20))
    write(outputs / "explanation.txt", "".join(log))
    write(outputs / "huggingface_model.md", CARD)
    return folder


def test_the_originals_tree_gives_its_poems_and_nothing_else(tree: Path, tmp_path: Path) -> None:
    held = survey([tree])
    report = import_poems(held.without(held.doubts), tmp_path / "poems.jsonl")
    poems = jsonl.read(tmp_path / "poems.jsonl", msgspec.json.Decoder(Poem))
    assert report.num_new == len(poems)
    assert Counter(Path(poem.source.rsplit(":", 1)[0]).name for poem in poems) == {
        "cleaned_poems.json": 66,
        "poem_accept.json": 40,
    }, "\n".join(map(sentence_of, held.files))
    assert Counter(poem.origin for poem in poems) == {"poet": 66, "accepted": 40}
