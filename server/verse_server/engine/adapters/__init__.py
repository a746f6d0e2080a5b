"""Adapters on the base: which there are, which are in memory, and how a batch mixes them."""
