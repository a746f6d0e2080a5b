"""Measurements against rivals: `uv run python -m benchmarks.serving`, `.batch`, `.training`."""
