"""What REST and gRPC are beside their operations: two faces of one service, with doors of their own."""
