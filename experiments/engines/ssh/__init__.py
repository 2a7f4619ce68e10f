"""The engine `ssh`: a run as it really is, over SSH on loopback."""
