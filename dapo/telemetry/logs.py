"""Logging of every service: plain lines on stderr, which the launcher sends to logs/<worker id>.log."""

import logging
import sys


def configure(worker_id: str, level: int = logging.INFO) -> None:
    """Log to stderr as `time level worker logger: message`. Replaces handlers of an earlier call."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {worker_id} %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("httpx", "httpcore", "urllib3", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
