"""The command line is killed, stopped, starved and misled: is the video the same in the end?

`python -m faults` runs `tethercache generate` in folders of its own, lets something happen to it at
a moment that chance decides, goes on with `--resume`, and compares with a run that nothing has
disturbed. It writes a log, and goes on where it was stopped.
"""
