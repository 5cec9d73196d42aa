"""Tells trackers of experiments and collectors of traces of a run, which goes on whatever becomes of them."""
