"""How the runs of a service start, go on and are ended."""
