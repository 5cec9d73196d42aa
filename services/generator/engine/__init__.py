"""The SGLang server: its process, its HTTP client, and their supervisor."""
