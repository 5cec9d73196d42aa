"""A Parquet file with more in a row group than Arrow builds in one piece. It takes seconds, and some 4 GB of memory."""

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
