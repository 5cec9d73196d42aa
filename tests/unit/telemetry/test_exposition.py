"""What is exported can be read again, whatever its labels hold, also packed."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from dapo.telemetry import exposition
from dapo.telemetry.instruments import family

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(values=st.dictionaries(st.tuples(TEXTS, TEXTS, TEXTS), st.floats(allow_nan=False), max_size=5))
def test_labels_and_values_come_back(values: dict[tuple[str, ...], float]) -> None:
    found = exposition.answer([family("dapo_run_info", values.items())])
    (read,) = text_string_to_metric_families(found.body.decode())
    samples = {tuple(one.labels[name] for name in ("run", "name", "state")): one.value for one in read.samples}
    assert samples == values
    assert read.type == "gauge"


def test_a_counter_keeps_its_name_and_what_is_none_is_left_out() -> None:
    body = exposition.answer([family("dapo_run_restarts_total", [(("a",), 3), (("b",), None)])]).body.decode()
    assert 'dapo_run_restarts_total{run="a"} 3.0' in body
    assert '"b"' not in body
    assert "# TYPE dapo_run_restarts_total counter" in body


def test_it_is_packed_for_those_who_take_that() -> None:
    found = [family("dapo_runs", [(("running",), 1)])]
    packed = exposition.answer(found, accept_encoding="gzip, deflate")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == exposition.answer(found).body


def test_labels_of_a_worker_are_on_every_sample() -> None:
    labels = {"run": "r", "worker": "generator-0"}
    samples = [sample for one in exposition.families(labels) for sample in one.samples]
    assert samples
    assert all(labels.items() <= sample.labels.items() for sample in samples)
    # The instruments themselves are as they were.
    assert not any("worker" in sample.labels for one in exposition.families() for sample in one.samples)


def test_a_label_for_which_there_is_no_name_is_a_fault() -> None:
    with pytest.raises(ValueError, match="longer"):
        family("dapo_runs", [(("running", "more"), 1)])
