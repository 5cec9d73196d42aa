"""The command line and the Python client against a live run service."""
