"""An object store for tests: a real S3 API server, and what stands in front of it and fails."""
