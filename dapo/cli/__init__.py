"""The `dapo` command: a module or a room for each of its commands, and the client of the run service beneath them."""
