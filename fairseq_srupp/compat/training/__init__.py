"""Runs of fairseq-train: batches, schedules, processes, validation."""
