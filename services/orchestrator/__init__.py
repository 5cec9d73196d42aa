"""The orchestrator: offers the run service, starts the processes of each run and controls its training."""
