"""What goes wrong, said in words before a workflow is queued."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from tethercache.errors import TetherCacheError


def problem(check: Callable[..., Any], **given: Any) -> str | Literal[True]:
    """What ComfyUI expects of `VALIDATE_INPUTS`: True, or what is wrong with the inputs.

    Args:
        check: raises what there is to say.
        **given: its arguments; None for an input that another node makes, which is left out.
    """
    try:
        check(**{name: value for name, value in given.items() if value is not None})
    except (ValueError, TetherCacheError, OSError) as error:
        return str(error)
    return True
