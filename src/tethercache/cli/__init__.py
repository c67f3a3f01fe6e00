"""The command line: `tethercache COMMAND ...`, one file a command.

Exit status: 0 done; 1 the work failed, or part of it was skipped; 2 usage; 130, 143, 129 stopped by
Ctrl-C, SIGTERM, SIGHUP; 141 nobody read the output any more.

A signal can come before anything is imported. So this file imports nothing but what answers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from tethercache.cli.stop import stopping


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line.

    Args:
        arguments: None: those of this process, which ends with it.

    Raises:
        SystemExit: always, with the exit status.
    """
    with stopping(for_good=arguments is None):
        from tethercache.cli.app import run

        status = run(arguments)
    raise SystemExit(status)
