"""`reasoning_gym`: tasks of the library reasoning-gym 0.1 (Open-Thought, Apache-2.0), scored by its own rules.

Supported are the tasks whose rule was read and neither evaluates the response (sympy's parser and `eval` do, in
countdown, puzzle24, n_queens, spiral_matrix, …) nor takes wrong answers for right ones (game_of_life_halting: any text;
number_sorting: numbers off by one; gsm_symbolic: a lost sign; coin_flip: a prefix; figlet_font: ten letters of many).
Syllogism is left out as its gold answers are wrong, in one row of eight.
"""

import json
from functools import lru_cache
from typing import Any, NamedTuple

from dapo.spec.tree.graders import ReasoningGymGrader
from services.verifier.graders.equivalence import class_of_text
from services.verifier.graders.math_text import UnreadableAnswer, require_visible
from services.verifier.graders.reading.extraction import final_answer
from services.verifier.graders.verdict import Grader, Verdict, scored, wrong

# fmt: off
SUPPORTED = frozenset((
    # One right answer, compared as text.
    "acre", "aiw", "arc_1d", "base_conversion", "basic_arithmetic", "bf", "binary_alternation", "caesar_cipher",
    "count_bits", "count_primes", "course_schedule", "gcd", "isomorphic_strings", "largest_island", "lcm",
    "leg_counting", "letter_counting", "list_functions", "mahjong_puzzle", "maze", "modulo_grid", "number_filtering",
    "number_sequence", "ransom_note", "rotate_matrix", "rotten_oranges", "simple_equations", "simple_geometry",
    "string_manipulation", "string_splitting", "string_synthesis", "word_sequence_reversal",
    # Rules of their own: several spellings, several solutions, or partial marks.
    "ab", "chain_sum", "circuit_logic", "color_cube_rotation", "cryptarithm", "decimal_arithmetic",
    "decimal_chain_sum", "dice", "family_relationships", "fraction_simplification", "futoshiki", "group_anagrams",
    "jugs", "kakurasu", "knights_knaves", "letter_jumble", "manipulate_matrix", "mini_sudoku", "needle_haystack",
    "number_format", "palindrome_generation", "palindrome_partitioning", "path_star", "prime_factorization",
    "products", "quantum_lock", "self_reference", "sentence_reordering", "shortest_path", "spell_backward", "sudoku",
    "survo", "word_ladder", "word_sorting", "zebra_puzzles",
))
# fmt: on
_CACHED_SCORERS = 32
_CACHED_GOLDS = 256


class _TaskGold(NamedTuple):
    task: str
    entry: dict[str, Any]


def encode_gold(task: str, entry: dict[str, Any]) -> str:
    """What `dapo data reasoning-gym` writes as a row's gold answer."""
    return json.dumps({"task": task, "answer": entry["answer"], "metadata": entry["metadata"]}, default=str)


def make_reasoning_gym(options: ReasoningGymGrader) -> Grader:
    """Raises ImportError without the library reasoning-gym."""
    import reasoning_gym

    @lru_cache(_CACHED_SCORERS)
    def scorer(task: str) -> Any:
        return reasoning_gym.create_dataset(task, seed=0, size=1)

    def score_of(text: str, wanted: _TaskGold) -> Verdict:
        answer = final_answer(text)
        if not answer:
            return wrong("no_answer")
        try:
            require_visible(answer)
            score = float(scorer(wanted.task).score_answer(answer, wanted.entry))
        except UnreadableAnswer as error:
            return wrong("unreadable", str(error))
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
            return wrong("unparsable", answer)
        return scored(_fair(score, answer, wanted.entry["answer"]), options.threshold, answer)

    @lru_cache(_CACHED_GOLDS)
    def gold_problem(gold: str) -> str:
        wanted = _read_gold(gold)
        if wanted is None:
            return "it is not what `dapo data reasoning-gym` writes for a supported task"
        own = score_of(f"<answer>{wanted.entry['answer']}</answer>", wanted)
        return "" if own.correct else f"the task's rule does not take its own answer ({own.reason})"

    def grade(text: str, gold: str) -> Verdict:
        problem = gold_problem(gold)
        wanted = None if problem else _read_gold(gold)
        return score_of(text, wanted) if wanted else wrong("bad_gold", problem)

    return Grader(grade, gold_problem, lambda text: class_of_text(final_answer(text)))


def _fair(score: float, answer: str, right_answer: Any) -> float:
    """In [0, 1]. Many rules pay in part for an answer that holds the right one, and so for a list of candidates."""
    if score < 1 and str(right_answer) in answer:
        return 0.0
    return min(max(score, 0.0), 1.0)


def _read_gold(gold: str) -> _TaskGold | None:
    try:
        tree = json.loads(gold)
        task, entry = str(tree["task"]), {"answer": tree["answer"], "metadata": tree["metadata"]}
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return _TaskGold(task, entry) if task in SUPPORTED else None
