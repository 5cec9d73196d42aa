"""What no single field of `evaluation` can tell."""

from collections.abc import Iterator

from dapo.spec.budget import evaluated_samples
from dapo.spec.problem import Problem
from dapo.spec.tree.evaluation import HELD_OUT
from dapo.spec.tree.run import RunTree
from dapo.spec.wording import shown


def evaluation(spec: RunTree) -> Iterator[Problem]:
    wanted = spec.evaluation
    for name, one in wanted.sets.items():
        if one.weight != 1:
            yield Problem(
                f"evaluation.sets.{name}.weight", str(one.weight), "has no effect: every problem is asked. Leave it out"
            )
    if HELD_OUT in wanted.sets and spec.data.held_out_share:
        yield Problem(
            f"evaluation.sets.{HELD_OUT}", None, "has the name of what data.held_out_share keeps back. Rename it"
        )
    longest = spec.sampling.max_response_tokens
    if wanted.max_response_tokens is not None and wanted.max_response_tokens > longest:
        yield Problem(
            "evaluation.max_response_tokens",
            str(wanted.max_response_tokens),
            f"the generators hold sequences for sampling.max_response_tokens = {longest}. Set at most {longest}",
        )
    yield from _greedy(spec)
    has_sets = bool(evaluated_samples(spec))
    if wanted.every_steps is not None and not has_sets:
        yield Problem(
            "evaluation.every_steps",
            shown(wanted.every_steps),
            "has no effect without prompts to evaluate on. Give evaluation.sets or data.held_out_share",
        )
    if wanted.dedicated_generator and not (has_sets and spec.training.steps):
        why = "prompts to evaluate on" if spec.training.steps else "a training beside it"
        yield Problem("evaluation.dedicated_generator", "true", f"has no effect without {why}. Leave it out")
    if not spec.training.steps and not has_sets:
        yield Problem(
            "training.steps", "0", "there is nothing to do: no training, and no evaluation.sets. Give one of them"
        )


def best_checkpoint(spec: RunTree) -> Iterator[Problem]:
    name, period = spec.checkpoint.keep_best, spec.evaluation.every_steps
    if name is None:
        return
    if name not in evaluated_samples(spec):
        yield _no_such_set(spec, "checkpoint.keep_best", name)
    elif period is None or period % spec.checkpoint.every_steps:
        yield Problem(
            "checkpoint.keep_best",
            name,
            "compares checkpoints whose step was evaluated. Set evaluation.every_steps to checkpoint.every_steps = "
            f"{spec.checkpoint.every_steps} or a multiple of it",
        )


def early_stopping(spec: RunTree) -> Iterator[Problem]:
    section, rule = "evaluation.early_stopping", spec.evaluation.early_stopping
    if rule.set is None:
        for name in rule.model_fields_set - {"set"}:
            value = getattr(rule, name)
            if value != type(rule).model_fields[name].default:
                yield Problem(f"{section}.{name}", str(value), f"has no effect without a set. Give {section}.set")
        return
    if rule.set not in evaluated_samples(spec):
        yield _no_such_set(spec, f"{section}.set", rule.set)
    elif rule.threshold is None and rule.patience is None:
        yield Problem(f"{section}.set", rule.set, f"ends no run by itself. Give {section}.threshold, .patience or both")
    elif spec.evaluation.every_steps is None:
        yield Problem(f"{section}.set", rule.set, "is not evaluated while the run goes on. Give evaluation.every_steps")
    if rule.min_delta and rule.patience is None:
        yield Problem(
            f"{section}.min_delta", str(rule.min_delta), f"has no effect without patience. Give {section}.patience"
        )


def _no_such_set(spec: RunTree, field: str, name: str) -> Problem:
    sets = evaluated_samples(spec)
    there = f"Those there are: {', '.join(sets)}" if sets else "Give evaluation.sets or data.held_out_share"
    return Problem(field, name, f"is no set that is evaluated. {there}")


def _greedy(spec: RunTree) -> Iterator[Problem]:
    wanted = spec.evaluation
    if wanted.temperature > 0:
        return
    greedy = "evaluation.temperature = 0 takes the likeliest token each time"
    samples = {"evaluation.samples": wanted.samples}
    samples |= {f"evaluation.sets.{name}.samples": one.samples or 1 for name, one in wanted.sets.items()}
    for field, count in samples.items():
        if count > 1:
            yield Problem(
                field, str(count), f"{greedy}, so all of them would be the same. Set 1, or a temperature above 0"
            )
    if wanted.top_p != 1:
        yield Problem(
            "evaluation.top_p",
            str(wanted.top_p),
            f"has no effect: {greedy}. Leave it out, or set a temperature above 0",
        )
