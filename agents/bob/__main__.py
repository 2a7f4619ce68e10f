"""`python -m fedssh.bob`: the `bob` command without an installation."""

from fedssh.bob.cli import main

main()
