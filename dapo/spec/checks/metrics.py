"""What the types of `metrics` cannot tell: whether its patterns are regular expressions, and of use."""

import re
from collections.abc import Iterator

from dapo.spec.problem import Problem
from dapo.spec.tree.run import RunTree
from dapo.spec.wording import shown


def reflection_patterns(spec: RunTree) -> Iterator[Problem]:
    field = "metrics.reflection_patterns"
    for pattern in spec.metrics.reflection_patterns:
        try:
            matches_nothing = re.compile(pattern, re.IGNORECASE).search("")
        except (re.error, OverflowError, RecursionError) as error:
            cure = f"Mend it, or write the plain text as {shown(re.escape(pattern))}"
            yield Problem(field, shown(pattern), f"is no regular expression: {error}. {cure}")
        else:
            if matches_nothing:
                yield Problem(field, shown(pattern), "matches every text, even an empty one. Take it out")
