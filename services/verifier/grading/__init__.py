"""Grading: which grader judges a request (`dispatch`), and the pool of processes in which local ones run."""
