"""Generator: takes prompts off the bus, samples responses from its SGLang server, receives weight updates."""
