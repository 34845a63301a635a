"""Byte corpora, and text as one long stream of tokens."""
