"""Methods of gRPC by subject; those of runs stand in grpc_api.py."""
