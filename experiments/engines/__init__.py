"""The ways to run a federation: in memory, over SSH, and the centralised training that both are measured against."""
