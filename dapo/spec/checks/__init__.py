"""What no single field can tell: values that do not go together. A module for each section; `all` runs them."""
