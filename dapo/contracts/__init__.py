"""How the generated messages are filled: arrays as bytes, prompts as text, the words of a verdict."""
