"""The tables of `docs/real-models.md`, made of the very cases that tests go through.

`python -m tests.tables` writes them into the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tests.conftest import ROOT

PAGE = ROOT / "docs/real-models.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; rows that are the same are there once."""
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join((lines[0], "|---" * len(head) + "|", *dict.fromkeys(lines[1:])))


def tables() -> dict[str, str]:
    """Every table by its name on the page."""
    from tests.backbones import test_attachable, test_self_forcing_families
    from tests.fit import published
    from tests.models.checkpoints import adapters, formats

    return {
        "downloads": published.downloads(),
        "formats": formats.table(),
        "memory": published.memory(),
        "presets": published.presets(),
        "adapters": adapters.table(),
        "pipelines": test_self_forcing_families.table(),
        "transformers": test_attachable.table(),
    }


def renewed(page: str) -> str:
    """The page with the tables as they are now."""
    for name, content in tables().items():
        place = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=\n<!-- /{name} -->)", re.S)
        page = place.sub(lambda _, text=content: text, page)
    return page


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
