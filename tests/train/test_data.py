from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_edge.errors import DataError
from sam_edge.evaluate.dataset import open_records
from sam_edge.train.data import AugmentConfig, PromptableDataset, collate, split_held_out
from sam_edge.train.prompting import PromptMix
from tests.sa1b import outline_mask, write_set, write_tar

SIZE = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("data") / "examples")


def dataset(folder: Path, augment: AugmentConfig = AugmentConfig(), seed: int = 0) -> PromptableDataset:
    return PromptableDataset(open_records([folder]), {}, SIZE, 3, augment, PromptMix(), seed)


def test_a_folder_and_a_tar_of_it_hold_the_same_records(folder: Path, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "examples-000.tar", folder)
    from_folder, from_tar = open_records([folder]), open_records([tar])
    assert [r.name for r in from_folder] == [r.name for r in from_tar] == ["astronaut", "chelsea", "coffee"]
    assert {r.source for r in from_folder + from_tar} == {"examples"}
    for a, b in zip(from_folder, from_tar, strict=True):
        assert (a.photo() == b.photo()).all()
        assert [o.id for o in a.objects()] == [o.id for o in b.objects()]
    cup = next(o for o in from_tar[2].objects() if o.category == "cup")
    assert (cup.mask() == outline_mask("coffee", "cup")).all()


def test_a_sample_depends_on_its_number_and_the_seed_alone(folder: Path) -> None:
    a, b, other = dataset(folder)[7], dataset(folder)[7], dataset(folder, seed=1)[7]
    assert (a["image"] == b["image"]).all() and (a["masks"] == b["masks"]).all()
    assert all((p.coords == q.coords).all() for p, q in zip(a["prompts"], b["prompts"], strict=True))
    assert not (a["image"] == other["image"]).all()


def test_masks_stay_on_their_objects_through_crop_zoom_and_flip(folder: Path, tmp_path: Path) -> None:
    """On a photo whose object is painted white on black, the sample's bright pixels are the sample's mask."""
    painted = np.repeat(outline_mask("coffee", "spoon")[:, :, None] * np.uint8(255), 3, axis=2)
    Image.fromarray(painted).save(tmp_path / "coffee.png")
    (tmp_path / "coffee.json").write_bytes((folder / "coffee.json").read_bytes())
    data = dataset(tmp_path, AugmentConfig(max_colour_gain=0.0, grey_share=0.0))
    (record,) = data.records
    spoon = [o for o in record.objects() if o.category == "spoon"]
    for number in range(40):
        sample = data.sample(record, spoon, np.random.default_rng(number))
        mask, bright = sample["masks"][0].astype(bool), sample["image"][:, :, 0] > 127
        assert mask.any()
        assert (mask & bright).sum() / (mask | bright).sum() > 0.97, number


def test_nothing_of_the_photo_lies_where_the_sample_says_padding(folder: Path) -> None:
    data = dataset(folder, AugmentConfig(whole_photo_share=1.0, max_colour_gain=0.0, grey_share=0.0))
    for number in range(12):
        sample = data[number]
        padding = sample["inside"] == 0
        assert sample["masks"][:, padding].sum() == 0
        assert sample["image"][padding].sum() == 0


def test_collate_fills_short_prompts_with_empty_slots(folder: Path) -> None:
    batch = collate([dataset(folder)[i] for i in range(4)])
    assert batch.images.shape == (4, 3, SIZE, SIZE) and batch.masks.shape == (12, SIZE, SIZE)
    assert batch.point_coords.shape[:2] == batch.point_labels.shape
    assert (batch.point_coords[batch.point_labels == -2] == 0).all()


def test_held_out_photos_are_never_trained_on(folder: Path) -> None:
    records = open_records([folder])
    train, held_out = split_held_out(records, 1)
    assert len(held_out) == 1 and len(train) == 2
    assert {r.name for r in train} & {r.name for r in held_out} == set()


def test_a_missing_an_empty_and_a_broken_set_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_records([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="no photo with annotations"):
        open_records([tmp_path])
    with pytest.raises(DataError, match=r"no photo in it; expected NAME\.jpg or"):
        open_records([tmp_path], annotated=False)
    (tmp_path / "broken.tar").write_bytes(b"not a tar at all" * 100)
    with pytest.raises(DataError, match="not a readable tar"):
        open_records([tmp_path / "broken.tar"])
    (tmp_path / "x.jpg").write_bytes((folder / "coffee.jpg").read_bytes())
    (tmp_path / "x.json").write_text('{"image": {}, "annotations": 3}')
    (tmp_path / "broken.tar").unlink()
    with pytest.raises(DataError, match="SA-1B"):
        open_records([tmp_path])[0].objects()


def test_a_mask_that_claims_another_size_than_its_photo_is_refused_before_it_is_decoded(
    tmp_path: Path, folder: Path
) -> None:
    text = (folder / "coffee.json").read_text()
    (tmp_path / "coffee.jpg").write_bytes((folder / "coffee.jpg").read_bytes())
    (tmp_path / "coffee.json").write_text(text.replace("[400, 600]", "[4000000, 6000000]", 1))
    with pytest.raises(DataError, match="4000000"):
        open_records([tmp_path])[0].objects()


def test_a_photo_that_was_turned_after_it_was_annotated_is_refused(tmp_path: Path, folder: Path) -> None:
    """Phones write photos lying down with a note which way is up; masks drawn on the stored pixels do not fit."""
    photo = Image.open(folder / "coffee.jpg")
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "coffee.jpg", exif=exif)
    (tmp_path / "coffee.json").write_bytes((folder / "coffee.json").read_bytes())
    with pytest.raises(DataError, match=r"coffee.*mask of \(400, 600\).*photo of \(600, 400\)"):
        dataset(tmp_path)[0]


def test_an_object_without_a_pixel_is_named(tmp_path: Path, folder: Path) -> None:
    annotation = json.loads((folder / "coffee.json").read_text())
    annotation["annotations"] = [{"id": 7, "area": 500, "segmentation": {"size": [400, 600], "counts": [240000]}}]
    (tmp_path / "coffee.jpg").write_bytes((folder / "coffee.jpg").read_bytes())
    (tmp_path / "coffee.json").write_text(json.dumps(annotation))
    with pytest.raises(DataError, match="object 7 has an empty mask"):
        dataset(tmp_path)[0]


def test_photos_without_any_object_end_in_an_error_and_not_in_a_search_without_end(
    tmp_path: Path, folder: Path
) -> None:
    annotation = json.loads((folder / "coffee.json").read_text()) | {"annotations": []}
    (tmp_path / "coffee.jpg").write_bytes((folder / "coffee.jpg").read_bytes())
    (tmp_path / "coffee.json").write_text(json.dumps(annotation))
    with pytest.raises(DataError, match="none has an object"):
        dataset(tmp_path)[0]


@pytest.mark.parametrize("weights", [{"example": 1.0}, {"examples": 0.0}, {"examples": -1.0}])
def test_weights_that_draw_no_photo_or_name_no_source_are_refused(folder: Path, weights: dict[str, float]) -> None:
    with pytest.raises(DataError, match="weights of sources"):
        PromptableDataset(open_records([folder]), weights, SIZE, 3, AugmentConfig(), PromptMix(), 0)


def test_photos_are_drawn_in_proportion_to_their_objects_if_asked(tmp_path: Path, folder: Path) -> None:
    coffee = json.loads((folder / "coffee.json").read_text())
    coffee["annotations"] = coffee["annotations"][:1]
    for name in ("coffee", "astronaut"):
        (tmp_path / f"{name}.jpg").write_bytes((folder / f"{name}.jpg").read_bytes())
    (tmp_path / "astronaut.json").write_bytes((folder / "astronaut.json").read_bytes())
    (tmp_path / "coffee.json").write_text(json.dumps(coffee))
    records = open_records([tmp_path])
    objects = np.array([len(record.objects()) for record in records])
    assert objects[0] > objects[1] == 1
    asked, not_asked = (
        PromptableDataset(records, {}, SIZE, 3, AugmentConfig(), PromptMix(), 0, by_objects=by) for by in (True, False)
    )
    np.testing.assert_allclose(asked.cumulative, np.cumsum(objects / objects.sum()))
    np.testing.assert_allclose(not_asked.cumulative, [0.5, 1])


def test_drawing_by_objects_needs_an_object(tmp_path: Path, folder: Path) -> None:
    annotation = json.loads((folder / "coffee.json").read_text()) | {"annotations": []}
    (tmp_path / "coffee.jpg").write_bytes((folder / "coffee.jpg").read_bytes())
    (tmp_path / "coffee.json").write_text(json.dumps(annotation))
    with pytest.raises(DataError, match="for photos with objects"):
        PromptableDataset(open_records([tmp_path]), {}, SIZE, 3, AugmentConfig(), PromptMix(), 0, by_objects=True)
