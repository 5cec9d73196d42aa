"""One module for each place that a run can be told to, by that place's own library."""
