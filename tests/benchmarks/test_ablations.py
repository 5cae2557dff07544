"""Two small variants trained, scored, exported, timed and compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from sam_edge.benchmarks import ablations
from sam_edge.benchmarks.ablation_table import table
from sam_edge.benchmarks.ablation_variants import GROUPS, Group, Variant
from sam_edge.model.config import NanoEncoderConfig
from sam_edge.model.registry import MODELS, build_model
from tests.sa1b import OUTLINES, write_set
from tests.tiny_models import TINY_CONFIGS


def test_variants_of_a_group_differ_from_nano_in_what_they_say_and_fit_its_size() -> None:
    for group in GROUPS.values():
        first, *others = group.variants.values()
        assert first.config == MODELS["nano"] and all(other != first for other in others)
        assert all(replace(ablations.SCHEDULE, **other.training) for other in others)  # it names what there is
    models = [variant.config for variant in GROUPS["encoders"].variants.values()]
    assert len({model.encoder.trunk for model in models if isinstance(model.encoder, NanoEncoderConfig)}) >= 3
    assert all(sum(p.numel() for p in build_model(model).parameters()) <= 4_000_000 for model in models)


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_every_variant_takes_a_photo_and_a_click(name: str) -> None:
    for variant in GROUPS[name].variants.values():
        model = build_model(variant.config, image_size=64)
        with torch.inference_mode():
            features = model.encode(torch.zeros(1, 3, 64, 64))
            click = torch.full((1, 1, 2), 30.0), torch.ones(1, 1), torch.zeros(1, 1, 16, 16), torch.zeros(1)
            masks, iou = model.decode(features, *click)
        assert masks.shape == (1, 4, 16, 16) and iou.shape == (1, 4)


def test_a_group_is_trained_scored_timed_and_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = TINY_CONFIGS["nano"]
    other_trunk = replace(tiny, encoder=replace(tiny.encoder, trunk="repvit"))
    group = Group("two trunks", {"first": Variant(tiny, {}), "other one": Variant(other_trunk, {})})
    monkeypatch.setitem(ablations.GROUPS, "encoders", group)
    monkeypatch.setattr(ablations, "TIMED_SIZE_PX", 64)
    folder = write_set(tmp_path / "photos")
    out = tmp_path / "ablations.jsonl"
    arguments = f"encoders --data {folder} --eval {folder} --steps 1 --size 64 --runs {tmp_path / 'runs'} -o {out}"
    for _ in range(2):
        done = CliRunner().invoke(ablations.main, arguments.split(), catch_exceptions=False)
        assert done.exit_code == 0, done.output
    first, again = (json.loads(line) for line in out.read_text().splitlines())
    assert [row["checkpoint_sha256"] for row in first["variants"]] == [
        r["checkpoint_sha256"] for r in again["variants"]
    ]
    assert first["data"]["objects"] == sum(map(len, OUTLINES.values()))
    base, other = first["variants"]
    assert base["kinds"]["box"]["difference_points"] == 0 and base["encode_ratio"] == 1
    difference = other["kinds"]["box"]["miou_percent"] - base["kinds"]["box"]["miou_percent"]
    assert other["kinds"]["box"]["difference_points"] == pytest.approx(difference, abs=0.011)
    assert base["parameters"] != other["parameters"] and other["encode_ms"] > 0 and other["decode_ms"] > 0
    assert str(tmp_path) not in json.dumps(first)
    shown = table(again)
    assert "| other one |" in shown and f"`{first['command']}`" in shown and shown in done.output


def test_data_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        ablations.main, ["parts", "--data", str(tmp_path / "none"), "--eval", str(tmp_path / "none")]
    )
    assert done.exit_code == 1 and "does not exist" in done.output and "Traceback" not in done.output
