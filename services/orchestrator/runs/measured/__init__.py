"""What is measured of a run that goes on here, for whoever scrapes it."""
