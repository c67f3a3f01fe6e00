import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKLWan

from tethercache.evaluation import world
from training import (
    causal,
    encode,
    export,
    text,
    train_student,
    train_transformer,
    train_vae,
)
from training.common import CurveLog, Muon, orthogonalise, run_stage, save_atomic, step_generator

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


def tiny_config(folder: Path, parts: dict[str, Any] | None = None, **stage: Any) -> dict[str, Any]:
    config = yaml.safe_load((CONFIGS / "teacher.yaml").read_text())
    first = {**config["stages"][0], "warmup": 1, **stage}
    parts = {
        "first": {"batch": 3},
        "later": {"frames": 6, "batch": 2, "streams": 3},
        **(parts or {}),
    }
    clips = {"clips": str(folder / "latents")}
    first["parts"] = {name: {**clips, **part} for name, part in parts.items()}
    return {
        **config,
        "init": None,
        "out": str(folder / "out"),
        "device": "cpu",
        "transformer": TINY,
        "text_encoder": {"d_model": 24, "num_layers": 1},
        "compile": False,
        "autocast": False,
        "stages": [first],
        "log_every": 1,
    }


def run_main(module: Any, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_config", lambda _: config)
    module.main()


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    latents = torch.randn(4, 16, 15, 8, 8, generator=torch.Generator().manual_seed(0)).half()
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
                processor.declare(list(range(n + 3)), [0] * (n + 3), (4, 4), noisy.device)
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
        causal.install(transformer, 3).declare([0, 1, 2], [0, 0, 0], (4, 4), video.device)
        ours = transformer(video, torch.tensor([500.0]), embeds)[0]
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-4)


def test_a_chunk_sees_itself_and_the_clean_chunks_before_it():
    assert causal.groups([0, 0, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1]) == [
        (0, 2, 0),
        (2, 3, 2),
        (3, 5, 0),
        (5, 6, 2),
    ]


def test_attention_and_its_gradients_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, n, 3, 4, generator=generator) for n in (5, 7, 7))
    inputs = [x.requires_grad_() for x in (query, key, value)]
    ours = causal.attend(*inputs)
    theirs = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in inputs))
    theirs = theirs.transpose(1, 2).flatten(2)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn(ours.shape, generator=generator)
    for one, other in zip(
        *(torch.autograd.grad(x, inputs, grad) for x in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(one, other)


def restarted(
    module: Any, whole: dict[str, Any], parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run `whole` at once and `parts` with a stop after its second step."""
    run_main(module, whole, monkeypatch)
    original = module.run_stage
    monkeypatch.setattr(module, "run_stage", lambda **k: original(**{**k, "steps": 2}))
    run_main(module, parts, monkeypatch)
    monkeypatch.setattr(module, "run_stage", original)
    run_main(module, parts, monkeypatch)


def assert_same_state(first: Path, second: Path, model: str) -> None:
    one, two = (torch.load(p, weights_only=True)["state"] for p in (first, second))
    for a, b in ((one["ema"], two["ema"]), (one["models"][model], two["models"][model])):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_transformer_stage_restarts_bit_for_bit(pool: Path, monkeypatch: pytest.MonkeyPatch):
    gaps = {"frames": 9, "batch": 2, "streams": 2, "past": "scattered"}
    parts = {"recall": gaps, "turn": {**gaps, "from_frame": 10, "turn": 8, "every": 2, "after": 1}}
    whole = tiny_config(pool, parts, steps=3)
    parts = {**whole, "out": str(pool / "parts")}
    restarted(train_transformer, whole, parts, monkeypatch)
    assert_same_state(pool / "out/0-short.pt", pool / "parts/0-short.pt", "transformer")


def test_student_stages_restart_bit_for_bit_and_move_the_student(
    pool: Path, monkeypatch: pytest.MonkeyPatch
):
    run_main(train_transformer, tiny_config(pool, steps=1), monkeypatch)
    config = yaml.safe_load((CONFIGS / "student.yaml").read_text())
    config |= {"teacher": str(pool / "out/0-short.pt"), "critic_first": 1, "device": "cpu"}
    rollouts = [
        {"frames": 6, "batch": 2},
        {"frames": 9, "batch": 2, "clips": str(pool / "latents")},
    ]
    config |= {"stages": [{"name": "all", "rollouts": rollouts, "decay": 1, "steps": 4}]}
    whole, parts = ({**config, "out": str(pool / name), "log_every": 1} for name in ("a", "b"))
    restarted(train_student, whole, parts, monkeypatch)
    assert_same_state(pool / "a/0-all.pt", pool / "b/0-all.pt", "student")
    teacher = torch.load(pool / "out/0-short.pt", weights_only=True)["state"]["ema"]
    student = torch.load(pool / "a/0-all.pt", weights_only=True)["state"]["models"]["student"]
    assert any(not torch.equal(teacher[f"transformer.{key}"], student[key]) for key in student)
    assert float((pool / "a/0-all.csv").read_text().splitlines()[2].split(",")[-1]) > 0


def test_a_deeper_model_begins_as_the_shallow_one():
    config = tiny_config(Path())
    _, shallow, _ = train_transformer.build_models(config)
    layers = config["transformer"]["num_layers"] + 2
    deeper = {**config, "seed": 9, "transformer": {**config["transformer"], "num_layers": layers}}
    _, deep, _ = train_transformer.build_models(deeper)
    shadow = {f"transformer.{key}": value for key, value in shallow.state_dict().items()}
    train_transformer.load_average({"transformer": deep}, shadow)
    inputs = torch.randn(1, 16, 3, 8, 8), torch.tensor([500.0]), torch.randn(1, 5, 24)
    with torch.no_grad():
        torch.testing.assert_close(deep(*inputs)[0], shallow(*inputs)[0], atol=1e-6, rtol=1e-5)


def test_a_run_that_goes_on_drops_the_rows_it_will_write_again(tmp_path: Path):
    log = CurveLog(tmp_path / "run.csv", ["step", "loss"], 0)
    for step in (20, 40, 60):
        log.add(step=step, loss=1)
    CurveLog(tmp_path / "run.csv", ["step", "loss"], 45).add(step=60, loss=2)
    assert (tmp_path / "run.csv").read_text() == "step,loss\n20,1\n40,1\n60,2\n"


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path):
    path = tmp_path / "stage" / "checkpoint.pt"
    save_atomic({"step": 1}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_atomic({"step": 2, "unpicklable": lambda: None}, path)
    assert torch.load(path) == {"step": 1}
    assert list(path.parent.iterdir()) == [path]


def test_matching_moves_a_student_onto_the_teachers_distribution():
    """One number, Gaussian truths: x0 predictions are known, the direction leads to the mean."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.full((64, 1, 3, 1, 1), 2.0)
    offset = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([offset], lr=0.05)
    for _ in range(200):
        made = offset + torch.randn(64, 1, 3, 1, 1, generator=generator)
        sigmas = train_transformer.sample_sigmas((64, 1), generator, 0.05, 0.98)
        noisy = train_student.add_noise(made.detach(), sigmas, 3, generator)
        level = train_student.spread(sigmas, 3)
        trust = (1 - level) / ((1 - level) ** 2 + level**2)  # of a unit Gaussian seen in noise
        fake, real = (
            centre + trust * (noisy - (1 - level) * centre) for centre in (offset.detach(), mean)
        )
        direction = train_student.matching_direction(made.detach(), fake, real, 3)
        optimizer.zero_grad()
        (0.5 * (made - (made - direction).detach()).pow(2)).mean().backward()
        optimizer.step()
    assert abs(float(offset.detach()) - 2) < 0.1


def test_rollout_with_a_cache_equals_recomputation():
    config = tiny_config(Path())
    _, transformer, _ = train_transformer.build_models(config)
    processor = causal.install(transformer, 3)
    embeds = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
    video, states, made = causal.rollout(
        transformer, processor, embeds, 9, torch.Generator().manual_seed(0)
    )
    assert states.shape == made.shape == (2, 4, 16, 9, 8, 8)
    torch.testing.assert_close(video, made[:, -1])
    with torch.no_grad():
        for step, sigma in enumerate(causal.SIGMAS):
            sigmas = torch.full((2, 3), sigma)
            x0 = train_student.predict_x0(
                transformer, processor, video, states[:, step], sigmas, embeds
            )
            torch.testing.assert_close(x0, made[:, step], atol=1e-5, rtol=1e-4)


def test_rollout_after_a_past_equals_recomputation():
    _, transformer, _ = train_transformer.build_models(tiny_config(Path()))
    processor = causal.install(transformer, 3)
    generator = torch.Generator().manual_seed(1)
    embeds, past = (
        torch.randn(shape, generator=generator) for shape in ((2, 5, 24), (2, 16, 6, 8, 8))
    )
    video, states, made = causal.rollout(transformer, processor, embeds, 3, generator, past=past)
    assert states.shape == made.shape == (2, 4, 16, 3, 8, 8)
    torch.testing.assert_close(video, torch.cat([past, made[:, -1]], 2))
    with torch.no_grad():
        for step, sigma in enumerate(causal.SIGMAS):
            x0 = train_student.predict_x0(
                transformer, processor, video, states[:, step], torch.full((2, 1), sigma), embeds
            )
            torch.testing.assert_close(x0, made[:, step], atol=1e-5, rtol=1e-4)


def test_training_without_latents_says_what_writes_them(tmp_path: Path):
    pool = train_transformer.LatentPool(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"training\.encode"):
        pool.batch(1, 6, torch.Generator())


def test_scattered_frames_are_a_sink_a_memory_with_gaps_and_an_unbroken_end():
    generator = torch.Generator().manual_seed(0)
    ends = set()
    for _ in range(200):
        chosen = train_transformer.scattered(45, 21, 3, generator)
        assert len(set(chosen)) == 21
        assert chosen == sorted(chosen)
        assert chosen[:3] == [0, 1, 2]
        assert chosen[-1] < 45
        assert chosen[-1] - chosen[0] > 20  # something was left out
        gaps = [b - a for a, b in itertools.pairwise(chosen)]
        unbroken = next((i for i, gap in enumerate(reversed(gaps)) if gap > 1), len(gaps))
        ends.add(unbroken - 2)
    assert min(ends) == 1
    assert len(ends) > 8


def test_of_a_turning_camera_a_frame_that_shows_what_comes_is_often_among_the_scattered():
    generator = torch.Generator().manual_seed(0)
    counts = []
    for turn in (0, 40):
        shown = 0
        for _ in range(300):
            chosen = train_transformer.scattered(66, 12, 3, generator, from_frame=44, turn=turn)
            assert chosen == sorted(set(chosen))
            assert len(chosen) == 12
            assert chosen[-3] >= 44
            shown += any(0 <= frame - chosen[-3] + 40 <= 6 for frame in chosen[3:-3])
        counts.append(shown / 300)
    assert counts[1] > 0.6 > counts[0]


def test_a_stage_can_start_from_an_exported_model(pool: Path, monkeypatch: pytest.MonkeyPatch):
    run_main(train_transformer, tiny_config(pool, steps=1), monkeypatch)
    kept = train_transformer.read_average(pool / "out" / "0-short.pt")
    _, transformer, encoder = train_transformer.build_models(tiny_config(pool))
    modules = {"transformer": transformer, "text_encoder": encoder}
    train_transformer.load_average(modules, kept)
    for name, module in modules.items():
        module.save_pretrained(pool / "model" / name)
    again = train_transformer.read_average(pool / "model")
    assert all(torch.equal(kept[key], again[key]) for key in kept)


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
        torch.load(Path(c["out"]) / "0-clips.pt", weights_only=True)["state"]["vae"]
        for c in (config, parts)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_finished_vae_keeps_the_scale_of_its_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = yaml.safe_load((CONFIGS / "vae.yaml").read_text())
    config["model"] |= {"base_dim": 4, "z_dim": 4}
    stage = {**config["stages"][1], "frames": 5, "batch": 2, "scenes": 2, "steps": 1}
    config |= {"stages": [stage], "device": "cpu", "out": str(tmp_path)}
    model = tmp_path / "model"

    def scale() -> list[float]:
        return AutoencoderKLWan.load_config(model)["latents_mean"]

    run_main(train_vae, config, monkeypatch)
    vae = AutoencoderKLWan.from_pretrained(model)
    encode.measure_scale(model, vae, torch.randn(2, 4, 3, 8, 8) + 3)
    (model / train_vae.SCALED).touch()
    measured = scale()
    run_main(train_vae, config, monkeypatch)
    assert scale() == measured
    decoder = {**stage, "name": "decoder", "freeze_encoder": True}
    run_main(train_vae, config | {"stages": [stage, decoder]}, monkeypatch)
    assert scale() == measured
    run_main(train_vae, config | {"stages": [{**stage, "steps": 2}]}, monkeypatch)
    assert scale() != measured
    assert not (model / train_vae.SCALED).exists()


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
    shard = torch.load(pool / "new" / "shard_0000.pt", weights_only=True)
    assert shard["latents"].shape == (3, 16, 6, 8, 8)
    torch.testing.assert_close(
        shard["latents"].float().std((0, 2, 3, 4)), torch.ones(16), atol=0.02, rtol=0
    )
    (pool / "vae" / train_vae.SCALED).rename(pool / "vae" / "scale.was")
    with pytest.raises(SystemExit, match="has latents of another encoder"):
        run_main(encode, config | {"worker": 1}, monkeypatch)
    (pool / "vae" / "scale.was").rename(pool / "vae" / train_vae.SCALED)
    world_config = world.WorldConfig(**config["world"])
    assert not any(world.held_out(world.sample_scene(s, world_config)) for s in shard["seeds"])

    run_main(train_transformer, tiny_config(pool, steps=1), monkeypatch)
    size = export.export(pool / "out" / "0-short.pt", pool / "vae", pool / "model")
    assert size < 40e6
    from training.sample import generate

    clips = generate(pool / "model", ["a red ball"], 6, 0, torch.device("cpu"))
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
