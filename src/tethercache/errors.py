"""Failures that are nobody's usage mistake: the work could not be done, and the message says why.

The caller's mistakes raise `ValueError`.
"""


class TetherCacheError(RuntimeError):
    """Base of this project's own failures."""


class MissingModelError(TetherCacheError):
    """A model, or a file that it needs, is not there."""


class DamagedModelError(TetherCacheError):
    """A model's files are there but cannot be read."""
