"""The RunSpec tree. Imports neither torch nor any service."""

from dapo.spec.algorithm import PRESETS, AlgorithmSpec
from dapo.spec.run import RunSpec

__all__ = ["PRESETS", "AlgorithmSpec", "RunSpec"]
