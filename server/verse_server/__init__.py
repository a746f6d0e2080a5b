"""The OpenAI-compatible server: one resident base, many adapters."""
