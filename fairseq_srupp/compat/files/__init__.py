"""What fairseq reads and writes: checkpoints as data, whole or not at all, and its other files."""
