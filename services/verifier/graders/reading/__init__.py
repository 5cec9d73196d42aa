"""What a grader reads of a response: not its thinking; the answer that it states last; its typography as LaTeX."""
