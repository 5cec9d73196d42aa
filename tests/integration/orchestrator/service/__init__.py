"""The run service as a process: over REST, gRPC and the command, and what it leaves behind."""
