"""Base models to begin with where no model hub can be reached."""
