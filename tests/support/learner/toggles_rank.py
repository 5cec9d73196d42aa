"""`rank` for hundreds of cases: the model is read once."""

from copy import deepcopy
from functools import cache

import rank

from services.learner.model.policy import load_causal

if __name__ == "__main__":
    read_once = cache(load_causal)
    rank.load_causal = lambda path, dtype: deepcopy(read_once(path, dtype))
    rank.main()
