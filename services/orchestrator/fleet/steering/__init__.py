"""What only the leader of a run can do, asked of any instance."""
