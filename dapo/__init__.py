"""dapo: asynchronous reinforcement learning of language models, as microservices."""

__version__ = "0.1.0"
