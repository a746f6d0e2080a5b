"""How tokens are drawn from logits, and which may be drawn."""
