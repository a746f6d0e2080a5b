"""From poems to an adapter: data sets, LoRA training, checkpoints, preference tuning."""
