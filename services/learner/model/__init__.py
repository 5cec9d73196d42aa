"""The networks that are trained: policy, value network, LoRA, log-probabilities; and their export for others."""
