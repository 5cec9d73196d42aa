"""The losses and what goes into them: policy, value network, GAE, and how noisy the gradient is. Pure."""
