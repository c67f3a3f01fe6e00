from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from training import causal, encode, export, ode_pairs, text, train_transformer, train_vae, world
from training.common import Muon, orthogonalise, run_stage, step_generator

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
TINY = {
    "patch_size": [1, 2, 2],
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 24,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "cross_attn_norm": True,
    "rope_max_seq_len": 64,
}


def tiny_config(folder: Path, **stage: Any) -> dict[str, Any]:
    config = yaml.safe_load((CONFIGS / "teacher.yaml").read_text())
    first = {**config["stages"][0], "frames": 6, "batch": 2, "warmup": 1, **stage}
    first["latents"] = str(folder / "latents")
    return {
        **config,
        "out": str(folder / "out"),
        "device": "cpu",
        "transformer": TINY,
        "text_encoder": {"d_model": 24, "num_layers": 1},
        "stages": [first],
        "log_every": 1,
    }


def run_main(module: Any, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_config", lambda _: config)
    module.main()


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    latents = torch.randn(4, 16, 6, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    (tmp_path / "latents").mkdir()
    shard = {"latents": latents, "seeds": [1, 2, 3, 4], "world": {"object_weights": [1.0]}}
    torch.save(shard, tmp_path / "latents" / "shard_0000.pt")
    return tmp_path


def test_teacher_forcing_equals_step_by_step_causal_computation():
    config = tiny_config(Path())
    _, transformer, _ = train_transformer.build_models(config)
    processor = causal.install(transformer, 3)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(2, 16, 9, 8, 8, generator=generator)
    noisy = torch.randn(2, 2, 16, 9, 8, 8, generator=generator)
    sigmas = torch.rand(2, 2, 3, generator=generator).repeat_interleave(3, 2)
    embeds = torch.randn(2, 5, 24, generator=generator)
    with torch.no_grad():
        together = causal.predict_flow(transformer, processor, clean, noisy, sigmas, embeds)
        for s in range(2):
            for n in range(0, 9, 3):
                processor.declare(list(range(n + 3)), [0] * (n + 3))
                levels = torch.zeros(2, n + 3)
                levels[:, n:] = 1000 * sigmas[:, s, n : n + 3]
                video = torch.cat([clean[:, :, :n], noisy[:, s, :, n : n + 3]], 2)
                alone = transformer(video, levels.repeat_interleave(16, 1), embeds)[0]
                torch.testing.assert_close(
                    alone[:, :, n:], together[:, s, :, n : n + 3], atol=2e-6, rtol=1e-4
                )


def test_processor_without_streams_is_diffusers_own_attention():
    config = tiny_config(Path())
    _, transformer, _ = train_transformer.build_models(config)
    video, embeds = torch.randn(1, 16, 3, 8, 8), torch.randn(1, 5, 24)
    with torch.no_grad():
        theirs = transformer(video, torch.tensor([500.0]), embeds)[0]
        causal.install(transformer, 3).declare([0, 1, 2], [0, 0, 0])
        ours = transformer(video, torch.tensor([500.0]), embeds)[0]
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-4)


def test_mask_rule():
    chunks, streams = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    assert causal.stream_mask(chunks, streams).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [1, 0, 0, 1],
    ]


@pytest.mark.parametrize("objective", ["teacher", "self"])
def test_transformer_stage_restarts_bit_for_bit(
    objective: str, pool: Path, monkeypatch: pytest.MonkeyPatch
):
    stage = {"objective": objective, "depth": 2, "own_share": 0.5}
    whole = tiny_config(pool, steps=3, **stage)
    run_main(train_transformer, whole, monkeypatch)
    parts = tiny_config(pool, steps=3, **stage)
    parts["out"] = str(pool / "parts")
    original = train_transformer.run_stage
    monkeypatch.setattr(train_transformer, "run_stage", lambda **k: original(**{**k, "steps": 2}))
    run_main(train_transformer, parts, monkeypatch)
    monkeypatch.setattr(train_transformer, "run_stage", original)
    run_main(train_transformer, parts, monkeypatch)
    states = [
        torch.load(Path(c["out"]) / "0-short.pt", weights_only=False)["state"]
        for c in (whole, parts)
    ]
    for kind in ("ema", "models"):
        first, second = (s[kind] if kind == "ema" else s[kind]["transformer"] for s in states)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_trajectories_are_straight_for_a_straight_flow_and_train_a_stage(
    pool: Path, monkeypatch: pytest.MonkeyPatch
):
    target = torch.randn(2, 16, 3, 8, 8)
    noise = torch.randn(2, 16, 3, 8, 8)
    monkeypatch.setattr(causal, "first_chunk_flow", lambda *_: noise - target)
    states, x0 = ode_pairs.trajectory(None, None, noise, None, None, 2.0, 3)
    for level, sigma in enumerate(causal.SIGMAS):
        torch.testing.assert_close(states[:, level], (1 - sigma) * target + sigma * noise)
    torch.testing.assert_close(x0, target, atol=1e-5, rtol=1e-4)
    monkeypatch.undo()

    run_main(train_transformer, tiny_config(pool, steps=1), monkeypatch)
    config = yaml.safe_load((CONFIGS / "pairs.yaml").read_text())
    config |= {"teacher": str(pool / "out" / "0-short.pt"), "out": str(pool / "pairs")}
    config |= {"shards": 2, "batch": 2, "substeps": 1, "device": "cpu"}
    run_main(ode_pairs, config, monkeypatch)
    stage = {"pairs": config["out"], "pair_batch": 3, "pair_weight": 0.5}
    learned = tiny_config(pool, steps=1, **stage) | {"out": str(pool / "learned")}
    run_main(train_transformer, learned, monkeypatch)
    curve = (pool / "learned" / "0-short.csv").read_text().splitlines()
    assert float(curve[1].split(",")[-1]) > 0


def test_vae_stage_learns_and_restarts_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = yaml.safe_load((CONFIGS / "vae.yaml").read_text())
    config["model"] |= {"base_dim": 4, "z_dim": 4}
    stage = {**config["stages"][1], "frames": 5, "batch": 2, "scenes": 2, "steps": 2}
    config |= {"stages": [stage], "device": "cpu", "log_every": 1, "out": str(tmp_path / "a")}
    run_main(train_vae, config, monkeypatch)
    parts = {**config, "out": str(tmp_path / "b")}
    original = train_vae.run_stage
    monkeypatch.setattr(train_vae, "run_stage", lambda **k: original(**{**k, "steps": 1}))
    run_main(train_vae, parts, monkeypatch)
    monkeypatch.setattr(train_vae, "run_stage", original)
    run_main(train_vae, parts, monkeypatch)
    first, second = (
        torch.load(Path(c["out"]) / "0-clips.pt", weights_only=False)["state"]["vae"]
        for c in (config, parts)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_unclamped_decode_is_the_vaes_own():
    config = yaml.safe_load((CONFIGS / "vae.yaml").read_text())["model"]
    vae = train_vae.AutoencoderKLWan(**{**config, "base_dim": 4, "z_dim": 4})
    latents = torch.randn(1, 4, 3, 4, 4)
    with torch.no_grad():
        ours = train_vae.unclamped_decode(vae, latents).clamp(-1, 1)
        torch.testing.assert_close(ours, vae.decode(latents).sample)


def test_encode_export_and_load(pool: Path, monkeypatch: pytest.MonkeyPatch):
    vae_config = yaml.safe_load((CONFIGS / "vae.yaml").read_text())["model"]
    vae = train_vae.AutoencoderKLWan(**{**vae_config, "base_dim": 4})
    vae.save_pretrained(pool / "vae")
    config = yaml.safe_load((CONFIGS / "encode.yaml").read_text())
    config |= {"out": str(pool / "new"), "vae": str(pool / "vae"), "device": "cpu"}
    config |= {"shards": 1, "per_shard": 3, "latent_frames": 6}
    run_main(encode, config, monkeypatch)
    shard = torch.load(pool / "new" / "shard_0000.pt", weights_only=False)
    assert shard["latents"].shape == (3, 16, 6, 8, 8)
    torch.testing.assert_close(
        shard["latents"].float().std((0, 2, 3, 4)), torch.ones(16), atol=0.02, rtol=0
    )
    world_config = world.WorldConfig(**config["world"])
    assert not any(world.held_out(world.sample_scene(s, world_config)) for s in shard["seeds"])

    run_main(train_transformer, tiny_config(pool, steps=1), monkeypatch)
    size = export.export(pool / "out" / "0-short.pt", pool / "vae", pool / "model")
    assert size < 40e6
    from training.sample import generate

    clips = generate(pool / "model", ["a red ball"], 6, 21, 0, torch.device("cpu"))
    assert clips[0].shape == (21, 64, 64, 3)


def test_prompts_are_words_and_rows_after_the_end_are_zero():
    tokenizer = text.build_tokenizer()
    assert tokenizer.unk_token_id not in tokenizer(" ".join(world.vocabulary())).input_ids
    assert tokenizer("A RED ball.").input_ids == tokenizer("a red ball .").input_ids
    assert tokenizer("a zebra").input_ids[1] == tokenizer.unk_token_id
    encoder = text.build_text_encoder(len(tokenizer), 24, 1)
    with torch.no_grad():
        rows = text.encode_prompts(tokenizer, encoder, ["a red ball", "a blue star at noon"])
    assert rows.shape == (2, text.MAX_LENGTH, 24)
    assert (rows[0, 4:] == 0).all()
    assert (rows[0, :4] != 0).any(1).all()
    longest = max(
        len(tokenizer(world.sample_scene(s, world.WorldConfig((0, 0, 1), 1.0)).caption).input_ids)
        for s in range(200)
    )
    assert longest <= text.MAX_LENGTH


def test_muon_steps_are_orthogonal_and_reduce_a_loss():
    matrix = orthogonalise(torch.randn(8, 24, generator=torch.Generator().manual_seed(0)))
    values = torch.linalg.svdvals(matrix)
    assert values.min() > 0.6
    assert values.max() < 1.3
    weight = torch.nn.Parameter(torch.zeros(4, 2, 3, 3))
    optimizer = Muon([weight], lr=0.05)
    losses = []
    for _ in range(30):
        loss = (weight - 0.3).pow(2).mean()
        weight.grad = None
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_a_step_depends_on_seed_and_number_only():
    first, second = (torch.randn(3, generator=step_generator(1, 5)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.randn(3, generator=step_generator(1, 6)))


def test_a_stage_stops_by_the_clock(tmp_path: Path):
    done = run_stage(
        steps=10,
        state=dict,
        restore=lambda _: None,
        step=lambda i: {"loss": 1.0},
        folder=tmp_path,
        name="x",
        columns=["loss"],
        stop_seconds=0.0,
    )
    assert done == 1
