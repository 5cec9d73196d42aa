"""The launcher `kubernetes`: a run's workers as pods of a cluster.

What objects a run has, and what its pods mean, is pure; one module speaks to the API server.
"""
