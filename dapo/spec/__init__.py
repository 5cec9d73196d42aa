"""The RunSpec tree. Imports neither torch nor any service."""

from dapo.spec.load import dump_yaml, load_spec, parse_spec
from dapo.spec.run import RunSpec
from dapo.spec.text.problem import Problem, SpecError
from dapo.spec.tree.algorithm import PRESETS, AlgorithmSpec

__all__ = ["PRESETS", "AlgorithmSpec", "Problem", "RunSpec", "SpecError", "dump_yaml", "load_spec", "parse_spec"]
