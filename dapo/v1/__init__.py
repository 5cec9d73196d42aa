"""Generated from proto/dapo/v1 by `make proto`."""
