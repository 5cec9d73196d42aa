"""The launcher `attached`: workers are given to agents, which wait for them on any machines that reach Redis."""
