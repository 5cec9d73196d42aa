"""What runs need, what the machine has, and the runs of a service that wait for room on it."""
