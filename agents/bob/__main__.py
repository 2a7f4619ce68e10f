"""`python -m agents.bob`: the `bob` command without an installation."""

from agents.bob.cli import main

main()
