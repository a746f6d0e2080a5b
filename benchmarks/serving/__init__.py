"""Verse against mlx_lm.server and mlx_lm.batch_generate: same model, machine, BLAS and requests."""
