"""The two faces of the run service, REST and gRPC, and who may use them."""
