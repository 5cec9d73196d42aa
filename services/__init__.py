"""The four services. None imports another; all import dapo."""
