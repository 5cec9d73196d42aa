"""One way to drive a run through its life, over each of the faces that a run service has."""
