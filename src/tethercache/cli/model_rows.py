"""What `tethercache models show` says of a model, as pairs of a heading and a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tethercache.models import HubFile, Model, Preset, Settings, base_lacks, present


def rows(model: Model, weights_dir: Path | None) -> list[tuple[str, str]]:
    """What is known of a model without loading it.

    Args:
        model: what its name means.
        weights_dir: where its files may be; None: in the hub's cache.
    """
    rows: list[tuple[str, str]] = []
    if model.preset is not None:
        preset = model.preset
        rows += [("model", f"{model.name}: {preset.summary}"), ("source", preset.source)]
        rows += [("licence", preset.licence)]
        rows += [("note", preset.note)] if preset.note else []
        rows += [("checked", "no: sizes and licence are as public sources state them")]
        for file in preset.files:
            rows.append(("file", f"{file} ({_size(file)}): {_where(file, weights_dir)}"))
        lacking = base_lacks(weights_dir, preset.base)
        state = f"missing {', '.join(lacking)}" if lacking else "present"
        rows.append(("base", f"{preset.base} (VAE, text encoder, tokenizer): {state}"))
        rows += _memory(preset)
    elif model.path is not None:
        rows.append(("model", str(model.path)))
        rows += _describe(model.path)
    else:
        origin = str(model.file) if model.file else model.repository
        rows.append(("model", f"{origin} on the hub; nothing is known of it before it is fetched"))
    if model.settings is not None:
        rows += _settings_rows(model.settings, model.policy)
    if model.path is not None:
        rows += _words(model.path / "tokenizer" / "tokenizer.json")
    return rows


def _settings_rows(settings: Settings, policy: str) -> list[tuple[str, str]]:
    levels = _listed(settings.sigmas)
    if settings.first_sigmas is not None:
        levels += f" (of the first chunk {_listed(settings.first_sigmas)})"
    return [
        (
            "settings",
            f"chunks of {settings.chunk_size}, window {settings.window}, {settings.width}x"
            f"{settings.height} at {settings.fps} fps, noise levels "
            f"{levels} before the shift",
        ),
        ("policy", f"{policy} unless --policy says otherwise, at most {settings.window} frames"),
    ]


def _memory(preset: Preset) -> list[tuple[str, str]]:
    """What a preset takes of a GPU with its own policy, by arithmetic."""
    from tethercache.fit.choice import Machine, Wishes, ways
    from tethercache.fit.memory import sizes_of
    from tethercache.policies import POLICIES

    policy = POLICIES.parse(preset.policy)
    *_, least = needs = [
        way.estimate.total / 1e9
        for way in ways(sizes_of(preset), policy, Machine("cuda"), Wishes())
    ]
    return [("memory", f"{needs[0]:.1f} GB of a GPU in bfloat16, {least:.1f} GB at the least")]


def _listed(levels: Sequence[float]) -> str:
    return ", ".join(f"{level:g}" for level in levels)


def _describe(path: Path) -> list[tuple[str, str]]:
    from tethercache.fit.sizes import transformer_parameters
    from tethercache.models.checkpoints.describe import describe
    from tethercache.models.checkpoints.packed import form_of
    from tethercache.models.checkpoints.read import read_checkpoint

    checkpoint = read_checkpoint(path)
    config = describe(checkpoint)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    dtypes = sorted({form_of(tensor) for tensor in checkpoint.state.values()})
    notes = [("note", note) for note in checkpoint.notes]
    return [
        *notes,
        (
            "weights",
            f"{transformer_parameters(config, path) / 1e6:.1f} M parameters in {', '.join(dtypes)}"
            + (f", state dict `{checkpoint.key}`" if checkpoint.key else ""),
        ),
        (
            "sizes",
            f"{config['num_layers']} layers, width {width}, {config['num_attention_heads']} heads, "
            f"feed-forward {config['ffn_dim']}, text {config['text_dim']}",
        ),
    ]


def _words(tokenizer: Path) -> list[tuple[str, str]]:
    """What a model can be asked for, if that is a list of words."""
    from tethercache.conditioning import known_words

    words = known_words(tokenizer) if tokenizer.is_file() else []
    return [("words", f"{len(words)}, and no others: {' '.join(words)}")] if words else []


def _where(file: HubFile, weights_dir: Path | None) -> str:
    found = present(file, weights_dir)
    return "missing" if found is None else f"present, {found}"


def _size(file: HubFile) -> str:
    return f"{file.size / 1e9:.2f} GB" if file.size else "size not known"
