"""docs/export.md shows how an app calls the exported files; what it shows must draw the package's own mask."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import sam_edge
from sam_edge.image import read_photo

ROOT = Path(__file__).parents[1]


def test_the_page_s_example_without_this_package_draws_the_same_mask(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(encoding="utf-8"), re.S)
    assert "sam_edge." not in example and "import sam_edge" not in example
    photo = ROOT / "sam_edge" / "assets" / "photos" / "coffee.jpg"
    (tmp_path / "photo.jpg").write_bytes(photo.read_bytes())
    (tmp_path / "sam_edge").symlink_to(ROOT / "sam_edge")  # the folder that it names, as seen from a checkout
    (tmp_path / "example.py").write_text(f"{example}\nnp.save('mask.npy', mask)\n", encoding="utf-8")
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path, check=True, timeout=120)

    predictor = sam_edge.SamPredictor(sam_edge.load("nano"))
    predictor.set_image(read_photo(photo))
    masks, _, _ = predictor.predict(np.array([[320, 240]]), np.array([1]), multimask_output=False)
    assert masks[0].any()
    assert (np.load(tmp_path / "mask.npy") == masks[0]).all()
