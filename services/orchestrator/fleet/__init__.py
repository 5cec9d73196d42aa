"""All runs of a service and of its instances: they share a Redis, the index of runs, and agree on who leads which."""
