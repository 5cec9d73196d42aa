"""Parquet files of long rows, written."""

import pyarrow.parquet as pq

from dapo.data.outputs import open_output


def test_long_rows_are_written_in_small_row_groups(tmp_path):
    rows = [{"prompt": "x" * (16 << 20), "answer": str(i), "grader": None, "origin": f"d:{i}"} for i in range(9)]
    with open_output(tmp_path / "d.parquet") as output:
        for row in rows:
            output.write(row)
        output.finish()
    written = pq.ParquetFile(tmp_path / "d.parquet")
    assert written.metadata.num_row_groups == 3
    assert written.read(columns=["answer"])["answer"].to_pylist() == list("012345678")
