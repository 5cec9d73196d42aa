"""Rows to train on and to evaluate with: files, folders and hub datasets; schemas, splits, duplicates. No torch."""

from dapo.data.dataset import Dataset, open_dataset, open_source, open_splits
from dapo.data.errors import DatasetError, Malformed
from dapo.data.rows import Row

__all__ = ["Dataset", "DatasetError", "Malformed", "Row", "open_dataset", "open_source", "open_splits"]
