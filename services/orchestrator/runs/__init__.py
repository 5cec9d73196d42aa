"""The runs of this process, each from its creation to its last file, and the events by which it is watched."""
