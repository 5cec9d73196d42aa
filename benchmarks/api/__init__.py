"""What the run service answers, how fast, and what that costs."""
