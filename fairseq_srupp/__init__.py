"""SRU++ for fairseq: language models and translation on a fast recurrence."""

__version__ = "0.1.0"
