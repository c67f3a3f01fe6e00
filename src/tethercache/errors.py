"""Failures that are nobody's usage mistake: the work could not be done, and the message says why.

The caller's mistakes raise `ValueError`.
"""


class TetherCacheError(RuntimeError):
    """Base of this project's own failures."""


class MissingModelError(TetherCacheError):
    """A model, or a file that it needs, is not there."""


class DamagedModelError(TetherCacheError):
    """A model's files are there but cannot be read."""


class UnsafeModelError(TetherCacheError):
    """A file would run code if it were loaded the usual way; it was not loaded."""


class WrongModelError(TetherCacheError):
    """A file holds weights, but not those of a model that can be used here."""


class NotEnoughMemoryError(TetherCacheError):
    """A generation would not fit into the memory that is free; nothing was loaded."""


class MissingToolError(TetherCacheError):
    """A tool outside of Python that an option asks for is not installed."""


class NotFiniteError(TetherCacheError):
    """A model made numbers that are none (NaN or infinity); the message says where."""


class SessionError(RuntimeError):
    """A model was called where its session does not expect it, or after a call has failed."""
