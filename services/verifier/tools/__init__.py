"""What the command line runs as processes: `dapo grade` (`grade`), `dapo data reasoning-gym` (`reasoning_rows`)."""
