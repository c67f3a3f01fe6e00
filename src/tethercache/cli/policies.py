"""`tethercache policies`: the registered cache policies and their settings."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tethercache.cli.failures import Debug
from tethercache.policies import POLICIES


def policies(debug: Debug = False) -> None:
    """List the cache policies, their settings and defaults."""
    table = Table("policy", "settings", "what it remembers", "source", box=None, pad_edge=False)
    for name in POLICIES:
        entry = POLICIES[name]
        settings = ", ".join(f"{key}={value}" for key, value in POLICIES.fields(name).items())
        table.add_row(f"[bold]{name}", settings, entry.summary, entry.source)
    Console().print(table)
