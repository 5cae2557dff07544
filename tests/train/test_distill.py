from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sam_edge.errors import CheckpointError, DataError
from sam_edge.model.checkpoints import load_model, save_checkpoint
from sam_edge.model.config import ModelConfig, NanoEncoderConfig
from sam_edge.model.registry import MODELS
from sam_edge.train.distill import distill_stage
from sam_edge.train.embeddings import CacheKey, EmbeddingCache, dequantized, quantized
from sam_edge.train.students import check_fits, read_student
from tests.sa1b import PHOTOS, write_set
from tests.tiny_models import TINY_CONFIGS, tiny_model
from tests.train.test_loop import ROOT, environment

SETTINGS: dict[str, Any] = {
    "steps": 3, "photos_per_step": 2, "objects_per_photo": 2, "warmup_steps": 1, "held_out_photos": 1,
    "correction_shares": (0.0, 1.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos without annotations."""
    folder = tmp_path_factory.mktemp("photos")
    for path in PHOTOS.glob("*.jpg"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher (ViT), another one, and students: tinyvit and sam.json fit it, nano.json does not."""
    folder = tmp_path_factory.mktemp("models")
    teacher = tiny_model("vit")
    save_checkpoint(teacher, folder / "teacher.safetensors")
    with torch.no_grad():
        next(teacher.parameters()).mul_(2)
    save_checkpoint(teacher, folder / "other.safetensors")
    encoder = NanoEncoderConfig(image_size=64, dim=32, high_res_channels=())
    sam = replace(MODELS["nano_sam"], name="tiny-nano-sam", encoder=encoder, decoder=TINY_CONFIGS["vit"].decoder)
    for config in (TINY_CONFIGS["tinyvit"], TINY_CONFIGS["nano"], sam):
        (folder / f"{config.name}.json").write_text(json.dumps(config.to_dict()))
    return folder


def run(stage: str, models: Path, data: Path, out: Path, student: str = "tiny-tinyvit.json", **options: Any) -> Path:
    settings = SETTINGS | {"data": (str(data),)} | options.pop("settings", {})
    teacher = str(models / options.pop("teacher", "teacher.safetensors"))
    options = {"workers": 0, "validate_every": 100} | options
    return distill_stage(stage, teacher, str(models / student), out, settings=settings, **options)


def interrupt_at(step: int) -> Any:
    def report(figures: dict[str, Any]) -> None:
        if figures["step"] == step:
            raise KeyboardInterrupt

    return report


def figures(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("student", ["tiny-tinyvit.json", "tiny-nano-sam.json"])
def test_the_encoder_comes_closer_to_the_teachers_embeddings_under_the_teachers_decoder(
    models: Path, photos: Path, tmp_path: Path, student: str
) -> None:
    path = run("embeddings", models, photos, tmp_path, student, settings={"steps": 16, "lr": 3e-3})
    losses = [line["loss"] for line in figures(tmp_path / "embeddings")]
    assert np.mean(losses[-4:]) < 0.97 * np.mean(losses[:4])
    assert "held_out_cosine" in figures(tmp_path / "embeddings")[-1]
    ours, teachers = load_model(path), load_model(models / "teacher.safetensors")
    for part in ("prompt_encoder", "mask_decoder"):
        theirs = getattr(teachers, part).state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in getattr(ours, part).state_dict().items())


@pytest.mark.parametrize("stage", ["embeddings", "masks"])
def test_a_killed_stage_ends_with_the_weights_of_one_that_was_not(
    models: Path, photos: Path, tmp_path: Path, stage: str
) -> None:
    whole = load_file(run(stage, models, photos, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        run(stage, models, photos, tmp_path / "killed", save_every_s=0, report=interrupt_at(1))
    resumed = load_file(run(stage, models, photos, tmp_path / "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_masks_are_learnt_from_photos_without_annotations_by_a_student_of_any_shape(
    models: Path, photos: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    run("masks", models, photos, tmp_path, "tiny-nano.json", settings={"steps": 12, "lr": 3e-3}, say=said.append)
    lines = figures(tmp_path / "masks")
    assert "truth_iou" not in lines[0] and "corrected_teacher_iou" in lines[0]
    assert np.mean([line["loss"] for line in lines[-4:]]) < np.mean([line["loss"] for line in lines[:4]])
    assert any("decoder differs from the teacher's" in line for line in said)


def test_true_masks_count_by_their_share(models: Path, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "photos")
    losses = []
    for share in (0.0, 0.5, 1.0):
        out = tmp_path / str(share)
        run("masks", models, folder, out, settings={"steps": 1, "truth_share": share}, cache=tmp_path / "cache")
        losses.append(figures(out / "masks")[0]["loss"])
        assert "truth_iou" in figures(out / "masks")[0]
    assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2, rel=1e-3) and losses[0] != losses[2]


def test_masks_are_learnt_on_a_finer_grid_than_they_are_drawn_on(models: Path, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "photos")
    lines = {}
    for stride in (4, 1):
        out = tmp_path / str(stride)
        settings = {"steps": 1, "loss_stride": stride}
        run("masks", models, folder, out, "tiny-nano.json", settings=settings, cache=tmp_path / "cache")
        lines[stride] = figures(out / "masks")[0]
    assert 0 < abs(lines[1]["truth_iou"] - lines[4]["truth_iou"]) < 0.05  # the same masks, measured in other cells


def test_the_masks_stage_starts_from_the_student_of_the_embeddings(models: Path, photos: Path, tmp_path: Path) -> None:
    taught = load_file(run("embeddings", models, photos, tmp_path))
    after = load_file(run("masks", models, photos, tmp_path, settings={"steps": 1, "lr": 0.0}))
    name = "image_encoder.neck.0.weight"
    assert torch.allclose(taught[name], after[name])
    (tmp_path / "embeddings" / "last.safetensors").write_bytes((models / "other.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"another configuration \(tiny-vit, 64 px\), expected tiny-tinyvit"):
        run("masks", models, photos, tmp_path)


def test_a_student_that_does_not_fit_is_told_what_does(models: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\(32, 2, 2\), expected the teacher's \(32, 4, 4\).*--size 64"):
        config = ModelConfig.from_dict(json.loads((models / "tiny-nano-sam.json").read_text())).with_image_size(32)
        (models / "small.json").write_text(json.dumps(config.to_dict()))
        run("embeddings", models, photos, tmp_path, "small.json")
    with pytest.raises(
        CheckpointError, match=r"\(128, 32, 32\), .*\(256, 64, 64\)\. Use --student nano_sam or vit_t.*masks"
    ):
        check_fits(MODELS["nano"], MODELS["vit_b"].spec)
    for name in ("nano_sam", "vit_t"):
        check_fits(MODELS[name], MODELS["vit_h"].spec)
    assert not (tmp_path / "embeddings" / "state.pt").exists()


def test_a_teacher_with_skips_and_a_file_that_is_no_configuration_are_refused(
    models: Path, photos: Path, tmp_path: Path
) -> None:
    save_checkpoint(tiny_model("nano"), models / "skips.safetensors")
    with pytest.raises(CheckpointError, match="features besides its image_embeddings"):
        run("masks", models, photos, tmp_path, teacher="skips.safetensors")
    broken = tmp_path / "student.json"
    for text in (
        "{",
        "[]",
        '{"name": "x"}',
        '{"name": "x", "encoder": {"kind": "vit", "depth": "many"}, "decoder": {}}',
    ):
        broken.write_text(text)
        with pytest.raises(CheckpointError, match="not a model's configuration"):
            read_student(str(broken))


def test_another_configuration_does_not_continue_a_stage_and_says_what_differs(
    models: Path, photos: Path, tmp_path: Path
) -> None:
    run("masks", models, photos, tmp_path, settings={"steps": 1})
    with pytest.raises(CheckpointError, match=r"truth_share: was 0.3, now 0.9"):
        run("masks", models, photos, tmp_path, settings={"steps": 1, "truth_share": 0.9})
    with pytest.raises(CheckpointError, match=r"teacher_sha256: was '"):
        run("masks", models, photos, tmp_path, teacher="other.safetensors", settings={"steps": 1})


def test_a_corrupt_shard_is_named_and_computed_again_and_nothing_else_is(
    models: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam_edge.train.embeddings.PHOTOS_PER_SHARD", 2)
    encoded: list[tuple[int, int]] = []
    cache = tmp_path / "cache"
    run("embeddings", models, photos, tmp_path / "a", cache=cache, on_photo=lambda *n: encoded.append(n))
    assert encoded == [(1, 3), (2, 3), (3, 3)]
    shards = sorted(cache.glob("*/*.safetensors"))
    before = [shard.read_bytes() for shard in shards]
    assert len(shards) == 2
    damaged = bytearray(before[0])
    damaged[-20] ^= 1
    shards[0].write_bytes(damaged)
    said: list[str] = []
    encoded.clear()
    run(
        "embeddings",
        models,
        photos,
        tmp_path / "b",
        cache=cache,
        say=said.append,
        on_photo=lambda *n: encoded.append(n),
    )
    assert encoded == [(1, 2), (2, 2)]
    assert [line for line in said if "SHA-256" in line and str(shards[0]) in line]
    assert sorted(shard.read_bytes() for shard in cache.glob("*/*.safetensors")) == sorted(before)


def test_embeddings_of_two_teachers_are_kept_apart_and_never_mixed(models: Path, photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for teacher in ("teacher.safetensors", "other.safetensors"):
        run("embeddings", models, photos, tmp_path / teacher, teacher=teacher, cache=cache, settings={"steps": 1})
    first, second = sorted(cache.iterdir())
    (first / "cache.json").write_bytes((second / "cache.json").read_bytes())
    with pytest.raises(DataError, match=r"of another teacher .teacher_sha256"):
        for teacher in ("teacher.safetensors", "other.safetensors"):
            run("embeddings", models, photos, tmp_path / f"{teacher} 2", teacher=teacher, cache=cache)


def test_a_byte_a_value_is_within_half_a_step_of_every_channel() -> None:
    embedding = (
        np.random.default_rng(0).normal(size=(5, 9, 7)).astype(np.float32)
        * np.array([0, 1e-6, 0.1, 3, 900])[:, None, None]
    )
    values, scale = quantized(embedding)
    assert values.dtype == np.int8 and scale.dtype == np.float16
    error = np.abs(dequantized(values, scale) - embedding).max((1, 2))
    assert (error <= 0.51 * scale.astype(np.float32) + np.abs(embedding).max((1, 2)) * 1e-3).all()


def small_tar(path: Path, count: int, broken: tuple[int, ...]) -> Path:
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            buffer = io.BytesIO()
            Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(buffer, "jpeg")
            data = b"no photo" * (number + 1) if number in broken else buffer.getvalue()
            info = tarfile.TarInfo(f"sa_{number}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_one_broken_photo_of_a_tar_is_skipped_and_two_percent_stop(models: Path, tmp_path: Path) -> None:
    said: list[str] = []
    one = small_tar(tmp_path / "one.tar", 101, (7,))
    run("embeddings", models, one, tmp_path / "a", say=said.append, settings={"steps": 1})
    assert [line for line in said if line.startswith("skipped") and "one.tar:sa_7" in line and "not a photo" in line]
    two = small_tar(tmp_path / "two.tar", 101, (7, 60))
    with pytest.raises(DataError, match=r"2 of 101 photos cannot be used, expected at most 1% \(.*two.tar:sa_60: "):
        run("embeddings", models, two, tmp_path / "b", settings={"steps": 1})


LIMITED = """
import resource, sys
from pathlib import Path
from sam_edge.errors import SamEdgeError
from tests.train.test_distill import run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
try:
    run("embeddings", *map(Path, sys.argv[2:5]), save_every_s=0)
except SamEdgeError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def limited(limit_bytes: int, models: Path, photos: Path, out: Path) -> str:
    """What a run says in a process whose files may not grow beyond `limit_bytes`."""
    arguments = [sys.executable, "-c", LIMITED, str(limit_bytes), str(models), str(photos), str(out)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 1, done.stderr
    return done.stderr.strip()


def test_a_full_disk_is_one_line_and_leaves_cache_and_state_as_they_were(
    models: Path, photos: Path, tmp_path: Path
) -> None:
    message = limited(1000, models, photos, tmp_path / "cache")
    assert message.startswith("OutputError") and "00000.safetensors cannot be written" in message
    assert "\n" not in message
    assert [path.name for path in (tmp_path / "cache" / "cache").glob("*/*")] == ["cache.json"]

    with pytest.raises(KeyboardInterrupt):
        run("embeddings", models, photos, tmp_path / "state", save_every_s=0, report=interrupt_at(1))
    state = tmp_path / "state" / "embeddings" / "state.pt"
    before = state.read_bytes()
    message = limited(20_000, models, photos, tmp_path / "state")
    assert message.startswith("OutputError") and "last.safetensors cannot be written" in message and "\n" not in message
    assert state.read_bytes() == before and not list(state.parent.glob("*.tmp"))


def test_a_photo_that_changed_since_it_was_encoded_is_not_taught_the_old_embedding(
    photos: Path, tmp_path: Path
) -> None:
    cache = EmbeddingCache(tmp_path, CacheKey("tiny", "0" * 64, 64, (32, 4, 4)))
    cache.open(lambda line: None)
    with pytest.raises(DataError, match=r"coffee.jpg: it has no embedding in .* Run the same command again"):
        cache.embedding("ab" * 32, "coffee.jpg")


def test_a_photo_that_could_not_be_encoded_is_named_once(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, CacheKey("tiny", "0" * 64, 64, (32, 4, 4)))
    cache.open(lambda line: None)
    why = "set:cut.json: photo is damaged. Copy it again."
    index = {"sha256": "0" * 64, "size_bytes": 0, "photos": [], "broken": {"ab" * 32: why}}
    (cache.folder / "00000.json").write_text(json.dumps(index))
    cache.refresh()
    with pytest.raises(DataError) as caught:
        cache.embedding("ab" * 32, "set:cut.json")
    assert str(caught.value) == why
