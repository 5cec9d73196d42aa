"""`dapo runs samples`: where groups come from, and how they are shown."""
