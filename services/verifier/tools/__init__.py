"""What the command line runs as processes: `dapo grade` (`grade`), `dapo data inspect` and `prepare` (`golds`),
`dapo data reasoning-gym` (`reasoning_rows`).
"""
