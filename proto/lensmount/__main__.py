"""`python -m lensmount` is `lensmount`."""

from lensmount.cli import main

main()
