"""The control loop over real Valkey; generator, verifier and learner are scripted and speak through the bus."""

import re

import pytest

from dapo.bus import Bus
from dapo.bus.parts.groups import Groups
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.v1 import messages_pb2 as pb
from tests.support.orchestrator.control import GROUP, PROMPTS, STEPS, Seen, make_spec, run_scripted, some_uniform


@pytest.mark.parametrize("staleness", [0, 1, 4])
def test_a_run_keeps_its_staleness_and_its_ledger(valkey, tmp_path, staleness):
    spec = make_spec(tmp_path, staleness=staleness)
    workers, seen = run_scripted(valkey, f"s{staleness}", spec, some_uniform, learn_s=0.05)
    assert [batch.batch for batch in workers.batches] == list(range(STEPS))
    assert all(len(batch.groups) == PROMPTS for batch in workers.batches)
    lags = [batch.batch - group.issued_version for batch in workers.batches for group in batch.groups]
    assert min(lags) >= 0
    assert max(lags) <= staleness
    if staleness:
        assert max(lags) > 0, "generation never ran ahead of training"
    trained = [group.group_id for batch in workers.batches for group in batch.groups]
    assert len(set(trained)) == STEPS * PROMPTS
    assert not [gid for gid in trained if int(gid[1:]) % 3 == 0], "an uninformative group was trained on"
    assert all(group.issued_version == workers.issued_at[group.group_id] for b in workers.batches for group in b.groups)
    assert seen.states == ["running", "draining"]
    assert seen.open == []
    assert sum(seen.ledger.values()) == seen.issued
    assert seen.ledger["trained"] == STEPS * PROMPTS
    assert {state for state, count in seen.ledger.items() if count} <= {"trained", "filtered", "surplus"}


@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_a_batch_larger_than_the_data_and_epochs_that_end_within_one(valkey, tmp_path, rows, staleness):
    """Batches are full all the same: a row is asked again in the next epoch, as a group of its own."""
    spec = make_spec(tmp_path, staleness=staleness, rows=rows)
    workers, seen = run_scripted(valkey, f"rows{rows}s{staleness}", spec, some_uniform)
    drawn = [workers.rows_of[group_id] for group_id in sorted(workers.rows_of)]
    assert drawn == [divmod(number, rows) for number in range(len(drawn))]
    batches = [[group.group_id for group in batch.groups] for batch in workers.batches]
    assert [len(set(groups)) for groups in batches] == [PROMPTS] * STEPS
    assert len({group_id for groups in batches for group_id in groups}) == STEPS * PROMPTS
    epochs = [{workers.rows_of[group_id][0] for group_id in groups} for groups in batches]
    assert any(len(within) > 1 for within in epochs)
    lags = [batch.batch - group.issued_version for batch in workers.batches for group in batch.groups]
    assert 0 <= min(lags) <= max(lags) <= staleness
    assert seen.open == []
    assert sum(seen.ledger.values()) == seen.issued == len(drawn)


def test_each_step_is_recorded_with_what_it_was_made_of(valkey, tmp_path):
    spec = make_spec(tmp_path, staleness=1)
    workers, seen = run_scripted(valkey, "recorded", spec, some_uniform)
    assert [row["step"] for row in seen.rows] == list(range(1, STEPS + 1))
    assert [row["policy_version"] for row in seen.rows] == list(range(1, STEPS + 1))
    for row, batch in zip(seen.rows, workers.batches, strict=True):
        lags = [batch.batch - group.issued_version for group in batch.groups]
        assert row["staleness_mean"] == sum(lags) / len(lags)
        assert row["staleness_max"] == max(lags)
        assert row["batch_accuracy_mean"] == 0.5
        assert row["learner_idle"] == pytest.approx(0.2)
        assert row["entropy"] == 1.0
    # Accuracy is that of all graded groups: below the 0.5 of those kept, as a third is all wrong.
    accuracies = [row["accuracy_mean"] for row in seen.rows if row["accuracy_mean"] is not None]
    assert 0.2 < sum(accuracies) / len(accuracies) < 0.48
    assert sum(kind == "step" for kind, _ in seen.events) == STEPS


def test_without_dynamic_sampling_every_group_is_trained_on(valkey, tmp_path):
    spec = make_spec(tmp_path, staleness=0, dynamic_sampling=False)
    _, seen = run_scripted(valkey, "plain", spec, some_uniform)
    assert {state: count for state, count in seen.ledger.items() if count} == {"trained": STEPS * PROMPTS}


def test_failed_groups_are_replaced_and_told(valkey, tmp_path):
    spec = make_spec(tmp_path, staleness=1)
    _, seen = run_scripted(
        valkey, "failing", spec, lambda _, index: index == 0, fail=lambda group_id: int(group_id[1:]) % 5 == 0
    )
    assert seen.ledger["failed"] > 0
    assert seen.ledger["trained"] == STEPS * PROMPTS
    alerts = [data["message"] for kind, data in seen.events if kind == "alert"]
    assert any(alert.startswith("group g0000000000 failed: prompt_too_long") for alert in alerts)
    assert sum(seen.ledger.values()) == seen.issued


def test_a_run_whose_groups_all_fail_gives_up_in_words(valkey, tmp_path):
    """It ends as any other, so that what was trained comes into a checkpoint."""
    spec = make_spec(tmp_path, staleness=1)
    workers, seen = run_scripted(
        *(valkey, "hopeless", spec, lambda _, index: index == 0), fail=lambda group_id: int(group_id[1:]) >= 3 * PROMPTS
    )
    assert seen.ending is not None
    assert (seen.ending.state, seen.ending.steps) == ("failed", len(workers.batches))
    assert re.match(r"the last \d+ groups all failed.*'prompt_too_long'", seen.ending.message)
    assert 0 < len(workers.batches) < STEPS
    assert seen.ledger["trained"] == len(workers.batches) * PROMPTS
    assert seen.open == []


def test_a_low_keep_rate_is_an_alert_and_the_run_goes_on(valkey, tmp_path):
    spec = make_spec(tmp_path, staleness=1, alert=0.5)
    _, seen = run_scripted(valkey, "low", spec, lambda gid, index: int(gid[1:]) % 5 == 0 and index == 0)
    alerts = [data["message"] for kind, data in seen.events if kind == "alert"]
    assert any("dynamic sampling keeps only" in alert for alert in alerts)
    assert seen.ledger["trained"] == STEPS * PROMPTS


MEASURED = {"accuracy_mean", "reward_mean", "response_length_mean", "truncated_share", "keep_rate"}


def test_two_batches_cut_at_once_have_the_numbers_of_their_own_groups(valkey, tmp_path):
    spec = make_spec(tmp_path, staleness=4, dynamic_sampling=False)
    workers, seen = run_scripted(
        *(valkey, "own", spec, lambda group_id, index: index <= int(group_id[1:]) % 3), learn_s=0.05, burst=4 * PROMPTS
    )
    for row, batch in zip(seen.rows, workers.batches, strict=True):
        shares = [(int(group.group_id[1:]) % 3 + 1) / GROUP for group in batch.groups]
        assert row["accuracy_mean"] == sum(shares) / PROMPTS
        assert row["keep_rate"] == 1.0
    assert len({row["accuracy_mean"] for row in seen.rows[:4]}) > 1


def test_every_filtered_group_counts_for_one_step(valkey, tmp_path):
    spec = make_spec(tmp_path, staleness=4)
    _, seen = run_scripted(valkey, "once", spec, some_uniform, learn_s=0.05, burst=4 * PROMPTS)
    assert [row["step"] for row in seen.rows if not all(row[name] is not None for name in MEASURED)] == []
    told = sum(PROMPTS / row["keep_rate"] - PROMPTS for row in seen.rows)
    assert 0 < round(told) <= seen.ledger["filtered"] + seen.ledger["surplus"]


def alerts_with(seen: Seen, text: str) -> list[str]:
    return [data["message"] for kind, data in seen.events if kind == "alert" and text in data["message"]]


def test_prompts_that_a_full_server_refused_are_issued_later_and_once(tmp_path):
    async def react(bus: Bus, kind: str, data: dict) -> None:
        if data.get("state") == "running":
            await bus.control_server.client.config_set("maxmemory", 1 << 16)
        elif "prompts wait" in data.get("message", ""):
            assert await bus.groups.issued_total() == 0
            await bus.control_server.client.config_set("maxmemory", 1 << 26)

    spec = make_spec(tmp_path, staleness=1)
    with EmbeddedValkey(tmp_path / "valkey", 64) as server:
        workers, seen = run_scripted(server, "full", spec, some_uniform, react)
    assert len(alerts_with(seen, "prompts wait until memory is free")) == 1
    assert seen.ledger["trained"] == STEPS * PROMPTS
    assert sum(seen.ledger.values()) == seen.issued
    rows = [workers.rows_of[group_id] for group_id in sorted(workers.rows_of)]
    assert rows == [divmod(position, 23) for position in range(len(rows))], "no row is left out or comes twice"


def ballast(bus: Bus, count: int) -> dict[str, bytes]:
    """So many MiB of payloads that no checkpoint frees."""
    return {bus.payloads.payload_key("ballast", index, 0): bytes(1 << 20) for index in range(count)}


def test_while_memory_is_short_no_prompt_is_issued_that_can_wait_for_a_step(tmp_path, monkeypatch):
    """Of 40 groups the first issue is at most 27, so that others are wanted after the alert."""
    monkeypatch.setattr("services.orchestrator.control.inbox._MEMORY_POLL_S", 0.01)
    issues: list[tuple[int, int]] = []
    spec = make_spec(tmp_path, staleness=4, memory_mib=16)
    issue = Groups.issue

    async def react(bus: Bus, kind: str, data: dict) -> None:
        if data.get("state") == "running":
            await bus.payloads.put(ballast(bus, 15))
        elif data.get("kind") == "memory_budget":
            monkeypatch.setattr(Groups, "issue", watched)

    async def watched(groups: Groups, tasks: list[pb.PromptTask], epoch: int) -> None:
        # A batch is trained once its version is served: the step is recorded a moment later.
        client, keys = groups._control.client, groups._keys
        cut, version = await client.hget(keys.log, "next"), await client.get(keys.version)
        issues.append((int(cut or 0), pb.Version.FromString(version).step))
        await issue(groups, tasks, epoch)

    with EmbeddedValkey(tmp_path / "valkey", 64) as server:
        _, seen = run_scripted(server, "crowded", spec, some_uniform, react, learn_s=0.2)
    assert len(alerts_with(seen, "above 85% of resources.redis.memory_mib = 16")) == 1
    assert seen.ledger["trained"] == STEPS * PROMPTS
    assert issues
    assert all(cut == version for cut, version in issues), issues


@pytest.mark.parametrize("staleness", [0, 4])
def test_a_run_whose_budget_stays_full_goes_on_batch_by_batch(tmp_path, monkeypatch, staleness):
    """No batch is in training and fewer groups are ready than a batch has: nothing else would ever free memory."""
    monkeypatch.setattr("services.orchestrator.control.inbox._MEMORY_POLL_S", 0.01)
    on_their_way: list[int] = []
    issue = Groups.issue

    async def react(bus: Bus, kind: str, data: dict) -> None:
        if data.get("state") == "running":
            await bus.payloads.put(ballast(bus, 17))
        elif data.get("kind") == "memory_budget":
            monkeypatch.setattr(Groups, "issue", watched)

    async def watched(groups: Groups, tasks: list[pb.PromptTask], epoch: int) -> None:
        await issue(groups, tasks, epoch)
        on_their_way.append(await groups._control.client.zcard(groups._keys.open))

    spec = make_spec(tmp_path, staleness=staleness, memory_mib=16)
    with EmbeddedValkey(tmp_path / "valkey", 64) as server:
        _, seen = run_scripted(server, "full-budget", spec, lambda group_id, index: index == 0, react, learn_s=0.1)
    assert seen.ledger["trained"] == STEPS * PROMPTS
    assert on_their_way
    assert max(on_their_way) <= PROMPTS, "prompts were issued ahead of the next batch"


def test_the_payloads_of_another_run_on_the_server_hold_nothing_back(tmp_path, monkeypatch):
    monkeypatch.setattr("services.orchestrator.control.inbox._MEMORY_POLL_S", 0.01)

    async def react(bus: Bus, kind: str, data: dict) -> None:
        if data.get("state") == "running":
            other = Bus(bus.control_server, bus.payload_server, "other", "process0")
            await other.payloads.put(ballast(other, 20))

    spec = make_spec(tmp_path, staleness=1, memory_mib=16)
    with EmbeddedValkey(tmp_path / "valkey", 64) as server:
        _, seen = run_scripted(server, "beside", spec, some_uniform, react, learn_s=0.05)
    assert seen.ledger["trained"] == STEPS * PROMPTS
    assert alerts_with(seen, "resources.redis.memory_mib") == []
