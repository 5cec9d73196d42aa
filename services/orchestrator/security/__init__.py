"""Who may use the run service, for what and how much, and the record of what they changed."""
