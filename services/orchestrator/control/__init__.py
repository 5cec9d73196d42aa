"""The control loop of a run: which prompts are issued, which groups are kept, when a batch is cut and evaluated."""
