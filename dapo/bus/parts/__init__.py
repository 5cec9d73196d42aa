"""The parts of the bus: each owns some keys of a run and what may be done with them."""
