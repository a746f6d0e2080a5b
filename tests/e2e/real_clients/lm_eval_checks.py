"""EleutherAI's lm-eval; `OPENAI_BASE_URL` and `OPENAI_API_KEY` name the server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TASK = """\
task: next_line
dataset_path: json
dataset_kwargs: {{data_files: {{test: {lines}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{begin}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list: [{{metric: acc}}]
"""
WRITTEN = """\
task: written
dataset_path: json
dataset_kwargs: {{data_files: {{test: {lines}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{begin}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8}}
metric_list: [{{metric: exact_match}}]
"""
LINES = [
    {"begin": "床前明月光，", "choices": ["疑是地上霜。", "年终的报表。"]},
    {"begin": "白日依山尽，", "choices": ["黄河入海流。", "会议改期了。"]},
]


def evaluated(folder: Path, kind: str, task: str, **arguments: Any) -> Any:
    lines = folder / "lines.jsonl"
    lines.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in LINES), "utf-8")
    (folder / "next_line.yaml").write_text(TASK.format(lines=lines), "utf-8")
    (folder / "written.yaml").write_text(WRITTEN.format(lines=lines), "utf-8")
    route = "completions" if kind == "local-completions" else "chat/completions"
    settings = {
        "model": "libai",
        "base_url": f"{os.environ['OPENAI_BASE_URL']}/{route}",
        "num_concurrent": 2,
        "max_retries": 1,
        "max_length": 512,
        **arguments,
    }
    command = [sys.executable, "-m", "lm_eval", "--model", kind, "--include_path", str(folder)]
    command += ["--model_args", ",".join(f"{k}={v}" for k, v in settings.items())]
    command += ["--tasks", task, "--output_path", str(folder / "out")]
    command += ["--apply_chat_template"] * (kind != "local-completions")
    ran = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    (report,) = (folder / "out").rglob("results*.json")
    return json.loads(report.read_text("utf-8"))["results"][task]


TOKENIZERS: dict[str, dict[str, Any]] = {
    "huggingface": {"tokenizer": os.environ["VERSE_MODEL_FOLDER"]},
    # The server's own, which it asks for with this key and no other.
    "remote": {"auth_token": os.environ["OPENAI_API_KEY"]},
}


@pytest.mark.parametrize("backend", TOKENIZERS)
def test_lines_are_scored_with_either_tokenizer(tmp_path: Path, backend: str) -> None:
    settings = {"tokenizer_backend": backend, **TOKENIZERS[backend]}
    results = evaluated(tmp_path, "local-completions", "next_line", **settings)
    assert results["acc,none"] == 1.0


def test_lines_are_written_by_completions_and_by_chat(tmp_path: Path) -> None:
    results = evaluated(tmp_path, "local-completions", "written", **TOKENIZERS["remote"])
    assert "exact_match,none" in results
    (tmp_path / "chat").mkdir()
    assert "exact_match,none" in evaluated(tmp_path / "chat", "local-chat-completions", "written")
