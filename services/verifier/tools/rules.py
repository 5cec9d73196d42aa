"""The rules of grading as arguments of the tools: those of a spec's `reward`."""

import argparse

from pydantic import TypeAdapter

from dapo.spec.tree.graders import GraderSpec
from dapo.spec.tree.reward import RewardSpec
from services.verifier.grading.dispatch import Grading


def add_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reward", required=True, type=RewardSpec.model_validate_json, help="RewardSpec as JSON")
    parser.add_argument("--graders", default="{}", help="options of graders by name, as JSON")


def make_grading(arguments: argparse.Namespace) -> Grading:
    graders = TypeAdapter(dict[str, GraderSpec]).validate_json(arguments.graders)
    return Grading(graders, arguments.reward)
