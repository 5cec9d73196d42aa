"""Places that a run is told to, each with its real library."""
