"""The plugin that has SGLang tell spans of versions with every event."""

import pkgutil
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest

pytest.importorskip("sglang")

from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.utils.weight_versions import WeightVersionEvent, WeightVersionSpan

from services.generator.engine import spans
from services.generator.engine.server import server_environment
from tests.unit.generator.test_generator import make_spec


def told(version: str, start: int, end: int) -> WeightVersionSpan:
    return WeightVersionSpan(version=version, start=start, end=end)


def test_requests_that_go_on_are_given_the_spans_that_a_last_event_would_have() -> None:
    finished = [told("1.0", 0, 9)]
    updated = SimpleNamespace(weight_version_events=[WeightVersionEvent(old_version="1.0", num_output_tokens=4)])
    events = SimpleNamespace(
        output_reqs=[SimpleNamespace(weight_version_events=[]), SimpleNamespace(), updated],
        weight_versions=[None, finished, None],
        completion_tokens=[5, 9, 20],
        current_weight_version="1.1",
    )
    spans.fill_spans(events, dp_rank=0)
    assert events.weight_versions == [[told("1.1", 0, 5)], finished, [told("1.0", 0, 4), told("1.1", 4, 20)]]


def test_sglang_has_what_the_plugin_hooks_into() -> None:
    """SGLang only logs where a hook finds nothing."""
    owner, _, method = spans._EVENTS.rpartition(".")
    accumulator = pkgutil.resolve_name(owner)
    assert callable(getattr(accumulator, method))
    names = {"output_reqs", "weight_versions", "completion_tokens", "current_weight_version"}
    assert names <= accumulator.__dataclass_fields__.keys()


def test_sglang_finds_the_plugin_by_its_entry_point() -> None:
    """Where it does not, dapo was installed before it had the plugin: install it anew."""
    found = {entry.name: entry for entry in entry_points(group="sglang.srt.plugins")}
    assert found["dapo_spans"].load() is spans.activate


def test_the_plugin_touches_servers_of_generators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[tuple[str, HookType]] = []
    monkeypatch.setattr(HookRegistry, "register", lambda target, hook, kind: registered.append((target, kind)))
    monkeypatch.delenv("DAPO_TELLS_SPANS", raising=False)
    spans.activate()
    assert registered == []
    for name, value in server_environment(make_spec(), device="cpu").items():
        monkeypatch.setenv(name, value)
    spans.activate()
    assert registered == [(spans._EVENTS, HookType.BEFORE)]
