from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sam_edge.errors import CheckpointError, DataError, OutputError
from sam_edge.model.checkpoints import load_model, save_checkpoint
from sam_edge.model.registry import build_model
from sam_edge.train.loop import LEARN, PromptTask, TrainConfig, train
from sam_edge.train.run import learning_rate
from sam_edge.train.task import Place
from tests.sa1b import write_set
from tests.tiny_models import TINY_CONFIGS, tiny_model

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """Of a process that finds the tests as this one does."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)]).strip(os.pathsep)}


def logged(out: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("data") / "examples")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano with random weights, for runs whose trunk learns slowly: what sums in another order then stays close."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "start.safetensors"
    save_checkpoint(build_model("nano", image_size=64), path)
    return path


def tiny(folder: Path, steps: int = 4, init: str | Path = "") -> TrainConfig:
    return TrainConfig(
        init=str(init), data=(str(folder),), image_size=64, steps=steps, photos_per_step=2, objects_per_photo=2,
        warmup_steps=1, held_out_photos=0, correction_shares=(0.0, 1.0),
    )  # fmt: skip


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(folder: Path, tmp_path: Path) -> None:
    whole = load_file(train(tiny(folder), tmp_path / "whole", workers=0, validate_every=100))

    script = (
        f"import torch; torch.set_num_threads({torch.get_num_threads()})\n"  # the same count gives the same bits
        "from pathlib import Path\nfrom sam_edge.train.loop import train\nfrom tests.train.test_loop import tiny\n"
        "def report(f):\n    print(f['step'], flush=True)\n    import time; time.sleep(1.5)\n"
        f"data, out = Path({str(folder)!r}), Path({str(tmp_path / 'killed')!r})\n"
        "train(tiny(data), out, workers=0, save_every_s=0, report=report)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "1"
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = torch.load(tmp_path / "killed" / "state.pt", weights_only=True)
    assert 1 <= state["step"] < 4

    resumed = load_file(train(tiny(folder), tmp_path / "killed", workers=0, validate_every=100))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_lowers_the_loss_and_writes_log_and_checkpoint(folder: Path, tmp_path: Path) -> None:
    config = replace(tiny(folder, steps=30), lr=1e-3, correction_shares=(1.0,))
    path = train(config, tmp_path, workers=0, validate_every=100)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 31))
    first, last = (sum(line["loss"] for line in part) / 8 for part in (lines[:8], lines[-8:]))
    assert last < first
    assert path.exists() and list(tmp_path.glob("events.*"))


def test_half_precision_trains_the_same_float32_weights(folder: Path, tmp_path: Path) -> None:
    config = replace(tiny(folder, steps=6), freeze_depthwise=True, near_weight=0.5)
    full = load_file(train(config, tmp_path / "full", workers=0, validate_every=100))
    half = load_file(train(replace(config, precision="bf16"), tmp_path / "half", workers=0, validate_every=100))
    assert all(value.dtype == torch.float32 for value in half.values() if value.is_floating_point())
    moved = [name for name in full if not torch.equal(full[name], half[name])]
    assert moved and all(torch.allclose(full[name], half[name], atol=0.02) for name in full)
    start = load_file(train(replace(config, steps=1, lr=0.0), tmp_path / "start", workers=0, validate_every=100))
    fixed = "image_encoder.trunk.blocks.7.depthwise.weight"
    assert torch.equal(full[fixed], start[fixed])


def test_iou_predictions_alone_learn_while_masks_stay_as_they_are(
    folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = replace(tiny(folder, steps=3, init=pretrained), learn="iou_predictions")
    before, after = load_file(pretrained), load_file(train(config, tmp_path, workers=0, validate_every=100))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    heads = ("mask_decoder.iou_prediction_head.", "mask_decoder.mask_iou_head.")
    assert moved and all(name.startswith(heads) for name in moved)


def test_more_data_is_trained_on_and_never_held_out(folder: Path, tmp_path: Path) -> None:
    from sam_edge.evaluate.dataset import open_records
    from sam_edge.train.data import split_held_out

    more = write_set(tmp_path / "more")
    run = PromptTask(replace(tiny(folder), held_out_photos=1, more_data=(str(more),)), tmp_path / "out")
    assert [record.where for record in run.held_out] == [r.where for r in split_held_out(open_records([folder]), 1)[1]]
    assert sum(str(more) in record.where for record in run.train_records) == 3


def test_another_configuration_does_not_continue_a_run_and_says_what_differs(folder: Path, tmp_path: Path) -> None:
    train(tiny(folder, steps=1), tmp_path, workers=0, validate_every=100)
    with pytest.raises(CheckpointError, match=r"lr: was 0.0006, now 0.1"):
        train(replace(tiny(folder, steps=1), lr=0.1), tmp_path, workers=0)


def test_several_batches_a_step_give_the_weights_of_one_large_batch(
    folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = replace(tiny(folder, steps=2, init=pretrained), photos_per_step=4)
    whole = load_file(train(config, tmp_path / "whole", workers=0, validate_every=100))
    split = load_file(train(replace(config, accumulate=2), tmp_path / "split", workers=0, validate_every=100))
    assert all(torch.allclose(whole[name], split[name], atol=2e-5) for name in whole)  # sums in another order
    assert logged(tmp_path / "whole", "grad_norm") == pytest.approx(logged(tmp_path / "split", "grad_norm"), rel=1e-3)
    assert logged(tmp_path / "whole", "loss") == pytest.approx(logged(tmp_path / "split", "loss"), rel=1e-4)
    with pytest.raises(DataError, match="4 photos a step cannot be shared by 1 processes x 3 batches"):
        train(replace(config, accumulate=3), tmp_path / "odd", workers=0)


def test_two_processes_have_the_loss_and_the_weights_of_one_with_the_doubled_batch(
    folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    """Two photos each in two processes (gloo), four in one."""
    config = replace(tiny(folder, steps=2, init=pretrained), photos_per_step=4, frozen_blocks=0)
    one = load_file(train(config, tmp_path / "one", workers=0, validate_every=100))
    script = tmp_path / "two.py"
    script.write_text(
        "from dataclasses import replace\nfrom pathlib import Path\nfrom tests.train.test_loop import tiny\n"
        "from sam_edge.train.loop import train\n"
        f"start = tiny(Path({str(folder)!r}), steps=2, init={str(pretrained)!r})\n"
        f"config = replace(start, photos_per_step=4, frozen_blocks=0)\n"
        f"train(config, Path({str(tmp_path / 'two')!r}), workers=0, validate_every=100)\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    two = load_file(tmp_path / "two" / "last.safetensors")
    assert all(torch.allclose(one[name], two[name], atol=2e-5) for name in one)
    assert logged(tmp_path / "one", "loss") == pytest.approx(logged(tmp_path / "two", "loss"), rel=1e-4)
    assert logged(tmp_path / "one", "grad_norm") == pytest.approx(logged(tmp_path / "two", "grad_norm"), rel=1e-3)


def test_a_state_from_before_a_field_existed_had_its_default(folder: Path, tmp_path: Path) -> None:
    train(tiny(folder, steps=1), tmp_path, workers=0, validate_every=100)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    saved = json.loads(state["config"])
    del saved["accumulate"], saved["stream"]
    torch.save(state | {"config": json.dumps(saved)}, tmp_path / "state.pt")
    train(tiny(folder, steps=1), tmp_path, workers=0, validate_every=100)
    with pytest.raises(CheckpointError, match="accumulate: was 1, now 2"):
        train(replace(tiny(folder, steps=1), accumulate=2), tmp_path, workers=0)


def test_a_loss_that_is_no_number_keeps_the_last_good_state_and_writes_the_batch(folder: Path, tmp_path: Path) -> None:
    config = replace(
        tiny(folder), lr=1e30, final_lr_share=1.0, clip_norm=1e30
    )  # the first step throws the weights far away
    with pytest.raises(DataError, match=r"is (nan|inf) at step \d; expected a number. The batch is in .*bad-batch"):
        train(config, tmp_path, workers=0, save_every_s=0, validate_every=100)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    (batch,) = tmp_path.glob("bad-batch-*.pt")
    assert batch.name == f"bad-batch-{state['step']}.pt"
    assert torch.load(batch, weights_only=True)[0].shape == (2, 3, 64, 64)


def test_a_corrupt_state_is_an_error_and_not_a_fresh_start(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"\x80\x04garbage")
    with pytest.raises(CheckpointError, match="not a training state"):
        train(tiny(folder), tmp_path, workers=0)


def test_the_learning_rate_warms_up_and_falls_to_its_share() -> None:
    config = TrainConfig(steps=1000, warmup_steps=10, lr=1.0, final_lr_share=0.25)
    rates = [learning_rate(config, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1) and max(rates) <= 1.0
    assert rates[-1] == pytest.approx(0.25, abs=1e-3)
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_a_run_that_could_not_write_its_weights_is_not_taken_for_finished(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / "last.safetensors").mkdir(parents=True)  # nothing can be written there
    with pytest.raises(OutputError):
        train(tiny(folder, steps=2), out, workers=0, validate_every=100)
    (out / "last.safetensors").rmdir()
    assert load_file(train(tiny(folder, steps=2), out, workers=0, validate_every=100))


def test_a_vit_is_tuned_at_another_side_than_its_own(folder: Path, tmp_path: Path) -> None:
    start = tmp_path / "vit.safetensors"
    save_checkpoint(tiny_model("vit"), start)
    config = replace(tiny(folder, steps=1, init=start), model=TINY_CONFIGS["vit"].to_dict(), image_size=96)
    assert load_model(train(config, tmp_path / "run", workers=0, validate_every=100)).spec.image_size == 96


def test_every_part_of_tinyvit_that_learns_has_a_gradient(folder: Path, tmp_path: Path) -> None:
    """With one that has none, several processes wait for it and fail at the second step."""
    config = replace(tiny(folder), model=TINY_CONFIGS["tinyvit"].to_dict(), correction_shares=(1.0,))
    task = PromptTask(config, tmp_path)
    model = task.start()
    batch = task.collate([task.data(Place(0, 1, 0, 2, 0))[number] for number in range(2)])
    task.step_module(model, torch.device("cpu"))(batch, 1)[0].backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not {name for name in without if name.startswith("image_encoder.")}


def test_iou_predictions_alone_leave_batch_norms_as_they_are(folder: Path, tmp_path: Path) -> None:
    start = tmp_path / "tinyvit.safetensors"
    save_checkpoint(tiny_model("tinyvit"), start)
    config = replace(tiny(folder, 2, start), model=TINY_CONFIGS["tinyvit"].to_dict(), learn="iou_predictions")
    before, after = load_file(start), load_file(train(config, tmp_path / "run", workers=0, validate_every=100))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(LEARN["iou_predictions"]) for name in changed)
