"""The RunSpec tree. Imports neither torch nor any service."""

from dapo.spec.algorithm import PRESETS, AlgorithmSpec
from dapo.spec.load import dump_yaml, load_spec, parse_spec
from dapo.spec.problem import Problem, SpecError
from dapo.spec.run import RunSpec

__all__ = ["PRESETS", "AlgorithmSpec", "Problem", "RunSpec", "SpecError", "dump_yaml", "load_spec", "parse_spec"]
