"""What runs have measured: one run's curves by step, and several runs side by side."""
