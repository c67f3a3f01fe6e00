"""Write into the README what the code knows: the table of policies.

Run it as `python -m tools.readme`.
"""

from __future__ import annotations

import re
from pathlib import Path

from tethercache.policies import POLICIES

README = Path(__file__).resolve().parent.parent / "README.md"
_TABLE = re.compile(r"(?<=<!-- policies -->\n).*?(?=<!-- /policies -->)", re.S)


def policy_table() -> str:
    """The registered policies, and what they remember."""
    rows = ["| policy | what it remembers |", "|---|---|"]
    for name in (name for name in POLICIES if not POLICIES[name].package):
        shown = f"... + {name}" if POLICIES[name].wraps else name
        rows.append(f"| `{shown}` | {POLICIES[name].summary} |")
    return "\n".join(rows) + "\n"


def renewed(page: str) -> str:
    """The README with what the code knows now."""
    return _TABLE.sub(lambda _: policy_table(), page)


if __name__ == "__main__":
    README.write_text(renewed(README.read_text()))
