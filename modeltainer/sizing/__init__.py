"""How much memory a model takes, and which GPUs or slices hold it. Pure functions."""
