"""What fairseq-generate and fairseq-interactive read and print."""
