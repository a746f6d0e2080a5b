"""Train the base (Qwen2 architecture) on what corpus.py and tokenizer.py wrote, as an MLX folder.

PyTorch, because for this one job it is about three times as fast on a CPU as mlx: its matrix
products run in bfloat16. The weights have mlx-lm's names. The learning rate follows the clock, so
that a run of any length ends annealed.
"""

import argparse
import json
import math
import os
import random
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

VOCAB, DIMS, LAYERS, HEADS, HIDDEN, HEAD_DIMS = 8192, 320, 6, 5, 896, 64
ROPE_BASE, NORM_EPS = 10_000.0, 1e-6
TOKENS_PER_STEP = 4096
VALID_TOKENS, VALID_MEASURED, VALID_WINDOW = 60_000, 30_000, 128
CLIP = 1.0
SYSTEM = {
    "现代诗": "用户会给出一个主题，请按照给定的主题，切实准确简洁且情感丰富地写一首现代诗",
    "古诗": "用户会给出一个主题，请按照给定的主题写一首古诗",
    "词": "用户会给出一个词牌，请写一首词",
}
SYSTEM_SHOWN = {"现代诗": 0.5, "古诗": 0.15, "词": 0.15}
PROSE_CHARACTERS = 600


def as_chat(kind: str, theme: str, text: str) -> str:
    """A poem as the answer to its theme; a part of them says in a system message what it is."""
    shown = random.random() < SYSTEM_SHOWN[kind]
    system = f"<|im_start|>system\n{SYSTEM[kind]}<|im_end|>\n" if shown else ""
    user = f"<|im_start|>user\n{theme}<|im_end|>\n"
    return f"{system}{user}<|im_start|>assistant\n{text}<|im_end|>\n"


def pieces(prose: str) -> list[str]:
    """Prose cut into stretches that each end like a document."""
    starts = range(0, len(prose), PROSE_CHARACTERS)
    return [prose[start : start + PROSE_CHARACTERS] + "<|endoftext|>\n" for start in starts]


def read_tokens(corpus_folder: Path) -> tuple[Tensor, Tensor]:
    """The shuffled corpus as one row of ids: (training, validation). The seed fixes the split."""
    tokenizer = Tokenizer.from_file(str(corpus_folder / "tokenizer.json"))
    corpus = json.loads((corpus_folder / "docs.json").read_text(encoding="utf-8"))
    texts = [as_chat(*document) for document in corpus["docs"]]
    texts += [piece for prose in corpus["prose"] for piece in pieces(prose)]
    random.shuffle(texts)
    ids = torch.tensor([i for encoding in tokenizer.encode_batch(texts) for i in encoding.ids])
    return ids[:-VALID_TOKENS], ids[-VALID_TOKENS:]


def rotary(x: Tensor) -> Tensor:
    """Rotary positions as Qwen2 has them. x: (batch, heads, tokens, head dims)."""
    frequencies = 1 / (ROPE_BASE ** (torch.arange(0, HEAD_DIMS, 2).float() / HEAD_DIMS))
    angles = torch.outer(torch.arange(x.shape[2]).float(), frequencies)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Attention(nn.Module):
    """Causal self-attention; bias on q, k and v as in Qwen2."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(DIMS, DIMS) for _ in range(3))
        self.o_proj = nn.Linear(DIMS, DIMS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Of shape (batch, tokens, dims), as the result."""
        batch, tokens, _ = x.shape
        q, k, v = (
            project(x).view(batch, tokens, HEADS, HEAD_DIMS).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = functional.scaled_dot_product_attention(rotary(q), rotary(k), v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, tokens, -1))


class MLP(nn.Module):
    """Gated SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(DIMS, HIDDEN, bias=False)
        self.up_proj = nn.Linear(DIMS, HIDDEN, bias=False)
        self.down_proj = nn.Linear(HIDDEN, DIMS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Of shape (batch, tokens, dims), as the result."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(), MLP()
        self.input_layernorm = nn.RMSNorm(DIMS, NORM_EPS)
        self.post_attention_layernorm = nn.RMSNorm(DIMS, NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Of shape (batch, tokens, dims), as the result."""
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen2(nn.Module):
    """The decoder with tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, DIMS)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(DIMS, NORM_EPS)

    def forward(self, ids: Tensor) -> Tensor:
        """From ids (batch, tokens) to logits (batch, tokens, vocab)."""
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) @ self.embed_tokens.weight.T


def next_token_loss(model: Qwen2, windows: Tensor) -> Tensor:
    """Mean cross-entropy in nats of windows (batch, tokens + 1), the products in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(windows[:, :-1])
    return functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


def valid_loss(model: Qwen2, valid: Tensor) -> float:
    """Nats a token in float32, windows of 128, so that runs of any context compare."""
    starts = range(0, VALID_MEASURED, VALID_WINDOW)
    windows = torch.stack([valid[i : i + VALID_WINDOW + 1] for i in starts])
    with torch.no_grad():
        losses = [
            functional.cross_entropy(
                model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten()
            ).item()
            for part in windows.split(1)
        ]
    return sum(losses) / len(losses)


def learning_rate(peak: float, step: int, share_done: float) -> float:
    """100 steps of warm-up, then a cosine over the time down to a twentieth of the peak."""
    return peak * min(1, (step + 1) / 100) * (0.525 + 0.475 * math.cos(math.pi * share_done))


def train(model: Qwen2, ids: Tensor, options: argparse.Namespace) -> None:
    """Steps until the minutes are over."""
    context, batch = options.context, TOKENS_PER_STEP // options.context
    optimizer = torch.optim.AdamW(
        model.parameters(), options.lr, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )
    begin, seconds, step, average = time.time(), options.minutes * 60, 0, None
    while (elapsed := time.time() - begin) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(options.lr, step, elapsed / seconds)
        starts = torch.randint(0, len(ids) - context - 1, (batch,))
        loss = next_token_loss(model, torch.stack([ids[i : i + context + 1] for i in starts]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        step += 1
        average = loss.item() if average is None else 0.95 * average + 0.05 * loss.item()
        if step % 100 == 0:
            tokens = step * TOKENS_PER_STEP
            print(
                f"step {step}  loss {average:.3f}  {tokens / 1e6:.2f}M tokens  "
                f"{tokens / elapsed:.0f} tokens/s  {elapsed / 60:.1f} min",
                flush=True,
            )


def read_weights(model: Qwen2, folder: Path) -> None:
    """Go on from a folder that `export` wrote."""
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({k.removeprefix("model."): v.float() for k, v in weights.items()})


def export(model: Qwen2, corpus_folder: Path, model_folder: Path) -> None:
    """Write the weights as float16 and the tokenizer; the small JSON files are kept by hand."""
    model_folder.mkdir(parents=True, exist_ok=True)
    weights = {"model." + k: v.half().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, model_folder / "model.safetensors", metadata={"format": "mlx"})
    shutil.copy(corpus_folder / "tokenizer.json", model_folder)


def main() -> None:
    """Parse the command line, train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder with docs.json and tokenizer.json")
    parser.add_argument("model", type=Path, help="folder to write")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--context", type=int, default=128, help="tokens a window")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak of the learning rate")
    parser.add_argument("--init-from", type=Path, help="go on from the weights of this folder")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 2)
    torch.manual_seed(0)
    random.seed(0)
    ids, valid = read_tokens(options.corpus)
    model = Qwen2()
    if options.init_from:
        read_weights(model, options.init_from)
        print(f"valid loss at the start {valid_loss(model, valid):.4f}", flush=True)
    train(model, ids, options)
    print(f"valid loss {valid_loss(model, valid):.4f}", flush=True)
    export(model, options.corpus, options.model)


if __name__ == "__main__":
    main()
