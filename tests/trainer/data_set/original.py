"""Rows and files as the original project wrote them, around texts of our own."""

import json
from pathlib import Path
from typing import Any

from verse.prompt import POEM_SYSTEM

RIVER = "灯在水上走\n  没有回头\n河记得"


def seed_text(theme: str, poem: str) -> str:
    """Spaces where Qwen's template has newlines."""
    return (
        f"<|im_start|>system {POEM_SYSTEM}<|im_end|> <|im_start|>user {theme}<|im_end|> "
        f"<|im_start|>assistant {poem}<|im_end|>"
    )


def listed(number: int, response: str, **flags: bool) -> dict[str, Any]:
    """An entry of the list its window works on."""
    flat = {"adaptor": "adapters_1", "outer_idx": number, "inner_idx": 0, "id": number}
    decided = {"accepted": False, "edited": False, "deleted": False} | flags
    return {**flat, **decided, "image": f"题{number}", "response": response}


def generated(title: str, body: str) -> dict[str, Any]:
    """An entry of what its generation script writes."""
    return {
        "title": title,
        "checkpoint_number": 200,
        "checkpoint_path": "adapter/0000200_adapters.safetensors",
        "body": body,
        "prompt_token": 64,
        "generate_token": 20,
        "prompt_variant_index": 1,
    }


def write_lines(path: Path, *rows: object) -> Path:
    """Write JSON Lines; a string is a line as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path
