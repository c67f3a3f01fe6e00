"""The command line: `tethercache COMMAND ...`, one file a command.

Exit status: 0 done; 1 the work failed, or part of it was skipped; 2 usage.
"""

from tethercache.cli.app import main

__all__ = ["main"]
