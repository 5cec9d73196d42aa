"""Parquet files of long rows, read and written."""

import pyarrow.parquet as pq

from dapo.data.outputs import open_output
from dapo.data.source import Source
from dapo.spec.tree.data import SourceSpec
from tests.support.data import write_repeated


def test_nested_text_of_more_than_2_gib_in_a_row_group(tmp_path):
    """Read at once, it is "Nested data conversions not implemented for chunked array outputs"."""
    rows = 520
    path = write_repeated(tmp_path / "d.parquet", "x" * (4 << 20), rows)
    assert path.stat().st_size < 1 << 20
    data = Source(SourceSpec(path=str(path)), "data")
    assert (len(data), data.fields.schema) == (rows, "TRL")
    row = data.row(rows - 1)
    assert (len(row.prompt.messages[0].content), row.gold) == (4 << 20, "519")


def test_long_rows_are_written_in_small_row_groups(tmp_path):
    rows = [{"prompt": "x" * (16 << 20), "answer": str(i), "grader": None, "origin": f"d:{i}"} for i in range(9)]
    with open_output(tmp_path / "d.parquet") as output:
        for row in rows:
            output.write(row)
        output.finish()
    written = pq.ParquetFile(tmp_path / "d.parquet")
    assert written.metadata.num_row_groups == 3
    assert written.read(columns=["answer"])["answer"].to_pylist() == list("012345678")
