"""`python -m triggerfish` is `triggerfish`."""

from triggerfish.cli import main

main()
