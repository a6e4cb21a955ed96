"""`python -m orderflow.cli`."""

from orderflow.cli import main

main()
