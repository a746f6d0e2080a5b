"""Measurements against rivals: `uv run python -m benchmarks.NAME`.

serving, batch, training, similarity; each says what it measures.
"""
