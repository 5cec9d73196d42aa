"""What runs need of a machine, and which of those that wait start."""
