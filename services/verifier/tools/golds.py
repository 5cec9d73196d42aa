"""`python -m services.verifier.tools.golds`, run by `dapo data inspect` and `dapo data prepare`: checks gold answers.

A line in is a JSON list of [grader, gold answer], a line out the list of what is wrong with each; empty texts where
nothing is (`Grading.check_golds`). Ends with its input.
"""

import argparse
import asyncio
import json
import sys

from pydantic import TypeAdapter

from dapo.errors import first_leaf
from dapo.host.processes import die_with_parent
from dapo.spec.tree.graders import GraderSpec
from dapo.spec.tree.reward import RewardSpec
from services.verifier.grading.dispatch import Grading
from services.verifier.grading.pool import GraderStartError


async def _serve(grading: Grading) -> None:
    """Raises GraderStartError, perhaps in an ExceptionGroup."""
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(grading.run())
        while line := await asyncio.to_thread(sys.stdin.readline):
            problems = await grading.check_golds([(name, gold) for name, gold in json.loads(line)])
            sys.stdout.write(json.dumps(problems) + "\n")
            sys.stdout.flush()
        serving.cancel()


def main() -> int:
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m services.verifier.tools.golds", description=__doc__)
    parser.add_argument("--reward", required=True, help="RewardSpec as JSON")
    parser.add_argument("--graders", default="{}", help="options of graders by name, as JSON")
    arguments = parser.parse_args()
    reward = RewardSpec.model_validate_json(arguments.reward)
    graders = TypeAdapter(dict[str, GraderSpec]).validate_json(arguments.graders)
    try:
        asyncio.run(_serve(Grading(graders, reward)))
    except KeyboardInterrupt:
        return 130
    except (ExceptionGroup, GraderStartError) as error:
        leaf = first_leaf(error)
        if not isinstance(leaf, GraderStartError):
            raise
        sys.stderr.write(f"error: {leaf}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
