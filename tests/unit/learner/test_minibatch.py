"""How batches are cut: nothing lost, nothing twice, budgets kept, equal counts on every rank."""

from hypothesis import given
from hypothesis import strategies as st

from services.learner.loss.denominators import Denominators
from services.learner.step.minibatch import pack, partition, plan_batch, schedule, split_updates

lengths_lists = st.lists(st.integers(1, 200), min_size=1, max_size=60)


@given(st.integers(0, 200), st.integers(1, 16), st.integers(0, 5), st.integers(0, 5))
def test_updates_hold_every_sample_once_in_nearly_equal_parts(count: int, updates: int, seed: int, batch: int) -> None:
    parts = split_updates(count, updates, seed=seed, batch=batch)
    assert len(parts) == updates
    assert sorted(i for part in parts for i in part) == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert parts == split_updates(count, updates, seed=seed, batch=batch)


def test_updates_are_shuffled_anew_for_each_batch_and_seed() -> None:
    base = split_updates(64, 4, seed=0, batch=0)
    assert base != split_updates(64, 4, seed=0, batch=1)
    assert base != split_updates(64, 4, seed=1, batch=0)


@given(lengths_lists, st.integers(1, 8))
def test_shares_are_balanced_to_within_one_sequence(lengths: list[int], ranks: int) -> None:
    shares = partition(range(len(lengths)), lengths, ranks)
    assert sorted(i for share in shares for i in share) == list(range(len(lengths)))
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths)


@given(lengths_lists, st.integers(1, 400))
def test_micro_batches_keep_the_padded_budget(lengths: list[int], budget: int) -> None:
    packed = pack(range(len(lengths)), lengths, budget)
    assert sorted(i for indices in packed for i in indices) == list(range(len(lengths)))
    for indices in packed:
        assert len(indices) == 1 or len(indices) * max(lengths[i] for i in indices) <= budget


@given(lengths_lists, st.integers(1, 5), st.integers(1, 400))
def test_every_rank_runs_equally_many_micro_batches(lengths: list[int], ranks: int, budget: int) -> None:
    packed = schedule(partition(range(len(lengths)), lengths, ranks), lengths, budget)
    assert len({len(micro_batches) for micro_batches in packed}) == 1
    assert len(packed[0]) >= 1
    assert sorted(i for rank in packed for indices in rank for i in indices) == list(range(len(lengths)))


def test_a_rank_without_samples_gets_empty_micro_batches() -> None:
    assert schedule([[0, 1], []], [10, 10], budget=10) == [[[0], [1]], [[], []]]
    assert schedule([[], []], [], budget=10) == [[[]], [[]]]


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=40), st.integers(1, 4))
def test_denominators_are_global_and_skip_what_is_out_of_the_loss(samples: list[tuple[int, bool]], ranks: int) -> None:
    tokens = [count for count, _ in samples]
    in_loss = [flag and count > 0 for count, flag in samples]
    plan = plan_batch([t + 1 for t in tokens], in_loss, updates=2, epochs=1, ranks=ranks, seed=1, batch=3)
    loss_tokens = [count if flag else 0 for count, flag in zip(tokens, in_loss, strict=True)]
    totals = [plan.update(number, loss_tokens, budget=64)[1] for number in range(2)]
    assert sum(t.tokens for t in totals) == sum(loss_tokens)
    assert sum(t.sequences for t in totals) == sum(in_loss)
    everyone = sorted(i for rank in range(ranks) for i in plan.rank_indices(rank))
    assert everyone == [i for i, flag in enumerate(in_loss) if flag]


def test_denominators_count() -> None:
    assert Denominators.count([0, 2, 3], [5, 7, 0, 2]) == Denominators(tokens=7, sequences=2)


def test_an_unusable_sample_leaves_micro_batches_and_denominators() -> None:
    plan = plan_batch([4, 4, 4, 4], [True] * 4, updates=1, epochs=1, ranks=2, seed=0, batch=0)
    packed, totals = plan.update(0, [2, 0, 2, 2], budget=100)
    assert sorted(i for rank in packed for indices in rank for i in indices) == [0, 2, 3]
    assert totals == Denominators(tokens=6, sequences=3)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
def test_every_epoch_trains_on_every_sample_once(lengths: list[int], ranks: int, updates: int, epochs: int) -> None:
    plan = plan_batch(lengths, [True] * len(lengths), updates=updates, epochs=epochs, ranks=ranks, seed=1, batch=0)
    assert len(plan.shares) == epochs * updates
    for epoch in range(epochs):
        parts = plan.shares[epoch * updates : (epoch + 1) * updates]
        assert sorted(i for update in parts for share in update for i in share) == list(range(len(lengths)))
    whole = plan.whole([1] * len(lengths), budget=50)
    for rank in range(ranks):
        assert sorted(i for part in whole[rank] for i in part) == plan.rank_indices(rank)
    assert len({len(micro_batches) for micro_batches in whole}) == 1
