"""What REST and gRPC take, give and refuse."""
