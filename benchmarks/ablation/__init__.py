"""Parts of benchmarks/ladder.py: what is compared, how a run is made, what is read from it, and how that is shown."""
