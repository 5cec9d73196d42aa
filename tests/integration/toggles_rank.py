"""learner_rank for hundreds of cases: the model is read once."""

from copy import deepcopy
from functools import cache

import learner_rank

from services.learner.model import load_causal

if __name__ == "__main__":
    read_once = cache(load_causal)
    learner_rank.load_causal = lambda path, dtype: deepcopy(read_once(path, dtype))
    learner_rank.main()
