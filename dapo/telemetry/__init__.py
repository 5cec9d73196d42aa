"""What services report of themselves: the metrics, declared once with their units, and logging."""
