"""Network architectures: a file is a network."""
