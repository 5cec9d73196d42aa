"""What `dapo train` and `dapo runs watch` show while a run goes on."""
