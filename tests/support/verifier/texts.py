"""Texts for the properties of graders."""

from hypothesis import strategies as st

from services.verifier.graders.reading.thinking import without_thinking

SAID = st.text(max_size=200).filter(lambda text: without_thinking(text, ("<think>", "</think>")) is not None)
"""Any text after which the response is not still thinking: what comes next is read as an answer."""
