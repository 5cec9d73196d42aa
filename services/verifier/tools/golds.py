"""`python -m services.verifier.tools.golds`, run by `dapo data inspect` and `dapo data prepare`: checks gold answers.

A line in is a JSON list of [grader, gold answer], a line out the list of what is wrong with each; empty texts where
nothing is (`Grading.check_golds`). Ends with its input.
"""

import argparse
import asyncio
import json
import sys

from dapo.errors import first_leaf
from dapo.host.processes import die_with_parent
from services.verifier.grading.dispatch import Grading
from services.verifier.grading.pool import GraderStartError
from services.verifier.tools.rules import add_rules, make_grading


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
    add_rules(parser)
    arguments = parser.parse_args()
    try:
        asyncio.run(_serve(make_grading(arguments)))
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
