"""`python -m triggerfish` is `triggerfish`."""

from triggerfish.program import main

main()
