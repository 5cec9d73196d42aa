"""RunSpec, the file that describes a run: its tree, its checks, YAML in and out, and the plan of processes."""

from dapo.spec.load import dump_yaml, load_spec, parse_spec
from dapo.spec.problem import Problem, SpecError
from dapo.spec.run import RunSpec
from dapo.spec.tree.algorithm import PRESETS, AlgorithmSpec

__all__ = ["PRESETS", "AlgorithmSpec", "Problem", "RunSpec", "SpecError", "dump_yaml", "load_spec", "parse_spec"]
