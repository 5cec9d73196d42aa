"""How many generators a run wants."""
