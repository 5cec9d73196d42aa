"""What a pod of a run is: its template, filled, and how a learner's ranks are divided among pods."""
