"""What is known of the presets by arithmetic, as the page about real models shows it."""

from __future__ import annotations

import re

from tests import tables
from tethercache.errors import NotEnoughMemoryError
from tethercache.fit.choice import Machine, Wishes, choose, ways
from tethercache.fit.memory import WAN_1_3B, Tiles, estimate, sizes_of
from tethercache.models import BASES, PRESETS, Preset
from tethercache.policies import POLICIES

GIB = 2**30
CARDS = (12, 16, 24, 48, 80)
"""GB of GPUs as they are sold, each 2 ** 30 bytes."""

POLICIES_OF_1_3B = ("tethercache", *(f"tethercache:memory={m}" for m in (8, 5, 2)))


def gb(size: int) -> str:
    """Bytes, in GB of 1e9 of them."""
    return f"{size / 1e9:.1f}"


def downloads() -> str:
    """Files, sizes and licences of the presets, and the bases that lend the rest."""
    rows = []
    for name, preset in PRESETS.items():
        files = " and ".join(f"`{file.path}`" for file in preset.files)
        sizes = " and ".join(f"{f.size:,}" if f.size else "not known" for f in preset.files)
        where = f"`{preset.transformer.repository}`, {files}"
        rows.append((f"`{name}`", where, sizes, preset.licence))
    for base in BASES.values():
        borrowers = [name for name, preset in PRESETS.items() if preset.base == base]
        lent = "`vae/`, `text_encoder/`, `tokenizer/`"
        whose = f"base of `{borrowers[0]}`" if len(borrowers) == 1 else "base of the others"
        rows.append((whose, f"`{base}`: {lent}", "section 1", "Apache-2.0"))
    return tables.table(("model", "repository and file", "bytes", "licence of the weights"), rows)


def memory() -> str:
    """What the default policy and smaller ones take of a GPU with Wan2.1-T2V-1.3B."""
    rows = []
    for spec in POLICIES_OF_1_3B:
        policy = POLICIES.parse(spec)
        held = {"budget": policy.budget, "hidden": policy.reserve(3)}
        plain, on_read = estimate(WAN_1_3B, **held), estimate(WAN_1_3B, **held, rotated=False)
        tiled = estimate(WAN_1_3B, **held, rotated=False, tiles=Tiles())
        parts = (plain.weights, plain.cache, plain.features + plain.work, plain.overhead)
        shown = [f"{size / 1e9:.2f}" for size in parts]
        totals = [gb(way.total) for way in (plain, on_read, tiled)]
        rows.append((f"`{spec}`", str(policy.budget), *shown, *totals))
    head = ("policy", "K", "weights", "cache", "decode", "overhead", "total")
    return tables.table((*head, "rotating on read", "and in tiles"), rows)


def presets() -> str:
    """What each preset takes of a GPU with its own policy, and what becomes of it on each card."""
    rows = []
    for name, preset in PRESETS.items():
        policy = POLICIES.parse(preset.policy)
        found = list(ways(sizes_of(preset), policy, Machine("cuda"), Wishes()))
        most, least = found[0].estimate, found[-1].estimate
        cards = (_on_card(preset, card) for card in CARDS)
        sizes = (gb(size) for size in (most.weights, most.cache, most.total, least.total))
        rows.append((f"`{name}`", f"`{preset.policy}`", *sizes, *cards))
    head = ("model", "policy", "weights", "cache", "total", "at the least")
    return tables.table((*head, *(f"{card} GB" for card in CARDS)), rows)


def _on_card(preset: Preset, card: int) -> str:
    """How a preset's own policy runs on a card, or what does instead."""
    policy = POLICIES.parse(preset.policy)
    wishes = Wishes(limit=card * GIB)
    try:
        placed = choose(sizes_of(preset), policy, Machine("cuda"), wishes)
    except NotEnoughMemoryError as error:
        other = re.search(r"; the policy (\S+) needs ([\d.]+) GB$", str(error))
        return f"refused; `{other[1]}` needs {float(other[2]):.1f}" if other else "refused"
    if placed.tiles is not None:
        return "in tiles"
    return "as it is" if placed.keep_rotated else "rotating on read"
