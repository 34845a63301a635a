"""What is given to fairseq on the command line, in hydra's files and in checkpoints."""
