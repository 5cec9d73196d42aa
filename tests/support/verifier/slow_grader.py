"""A grader that takes its time to import, as those with large libraries do."""

import time

from services.verifier.graders import grade_exact

time.sleep(1.5)

grade = grade_exact
