from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from sam_edge.cli import COMMANDS
from sam_edge.cli.label import command
from sam_edge.evaluate.dataset import open_records

PHOTO = Path(__file__).parents[2] / "sam_edge" / "assets" / "photos" / "coffee.jpg"


def test_photos_and_boxes_become_training_data(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cup.jpg").write_bytes(PHOTO.read_bytes())
    images = [{"id": 1, "file_name": "cup.jpg", "width": 600, "height": 400}]
    boxes = {"images": images, "annotations": [{"image_id": 1, "bbox": [140, 60, 340, 300]}]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    arguments = [str(tmp_path / "photos"), "--boxes", str(tmp_path / "boxes.json"), "-o", str(tmp_path / "out.tar")]
    done = CliRunner().invoke(command, [*arguments, "--threads", "1", "--json"])
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)
    assert counts["photos"] == 1 and counts["labelled"] == 1 and counts["broken"] == []
    (record,) = open_records([tmp_path / "out-000.tar"])
    assert len(record.objects()) == 1
    again = CliRunner().invoke(command, [*arguments, "--threads", "1"])
    assert "1 parts were there already" in again.stdout
    assert COMMANDS["label"] == "sam_edge.cli.label"
