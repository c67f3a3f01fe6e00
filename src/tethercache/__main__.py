"""`python -m tethercache` is `tethercache`."""

from tethercache.cli import main

main()
