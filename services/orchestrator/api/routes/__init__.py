"""Routes of REST by subject; those of runs stand in rest.py."""
