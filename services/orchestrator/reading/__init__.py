"""What the web page and scripts read of a run: its curves, its samples, and what stands where at this moment."""
