"""Generator: takes prompts off the bus, samples responses from the SGLang server beside it, joins weight updates."""
