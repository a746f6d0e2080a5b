"""The HTTP side: controllers that decode, call the engine and encode. No mlx."""
