"""Pure functions and state machines of the algorithm: no I/O, no clock. Imports only the spec and the contracts."""
