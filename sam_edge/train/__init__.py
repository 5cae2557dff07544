"""Training: data, prompts, losses, the loop (extra `train`)."""
