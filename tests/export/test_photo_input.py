"""Preprocessing inside the graph gives what `image.preprocess` gives, for a photo of any size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sam_edge.artifact import write_artifact
from sam_edge.contract import ModelSpec, Runtime
from sam_edge.errors import ImageError
from sam_edge.export.photo_input import PhotoInput, bilinear_weights
from sam_edge.export.plan import Plan
from sam_edge.export.targets import PHOTO_INPUT, find_target
from sam_edge.golden_vectors import pack
from sam_edge.image import Photo, preprocess, read_photo
from sam_edge.model.sam import Sam
from sam_edge.predictor import SamPredictor
from sam_edge.quantize.recipe import Recipe
from sam_edge.runtimes import ASSETS, load_to_verify
from sam_edge.runtimes.with_torch import TorchRuntime
from tests.small_artifact import small_manifest

SPEC = ModelSpec("test", image_size=96, embedding_channels=8, pixel_mean=(1.0, 2.0, 3.0), pixel_std=(4.0, 5.0, 6.0))
STD = np.array(SPEC.pixel_std)[:, None, None]


def grey_levels_apart(photo: Photo) -> NDArray[np.float64]:
    """(3, S, S): between the graph's image and `preprocess`'s."""
    expected, _ = preprocess(photo, SPEC)
    got = PhotoInput(SPEC)(torch.from_numpy(photo)).numpy()
    assert got.shape == expected.shape
    return np.asarray(np.round(np.abs((got - expected)[0] * STD), 3))


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 400), width=st.integers(1, 400), seed=st.integers(0, 99))
@example(height=1, width=4000, seed=0)
@example(height=1, width=1, seed=0)
@example(height=96, width=96, seed=0)
def test_any_photo_is_preprocessed_within_one_grey_level(height: int, width: int, seed: int) -> None:
    photo = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    apart = grey_levels_apart(photo)
    # Pillow rounds its weights to 22 bits: where a sum is half a level, it may round to the other side, in either of
    # two passes. Both at one pixel were seen once in ten million pixels of noise.
    assert apart.max() <= 2 and (apart > 1).sum() <= 1


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_real_photos_are_preprocessed_within_one_grey_level(name: str) -> None:
    apart = grey_levels_apart(read_photo(ASSETS / "photos" / f"{name}.jpg"))
    assert apart.max() <= 1 and apart.mean() < 0.01


@settings(deadline=None)
@given(size=st.integers(1, 300), new_size=st.integers(1, 300))
def test_the_shares_of_a_new_pixel_sum_to_one(size: int, new_size: int) -> None:
    weights = bilinear_weights(size, new_size)
    assert weights.shape == (new_size, size)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(new_size))


@settings(deadline=None)
@given(size=st.integers(1, 300))
def test_the_same_size_leaves_every_pixel(size: int) -> None:
    torch.testing.assert_close(bilinear_weights(size, size), torch.eye(size))


@pytest.fixture(scope="module", params=PHOTO_INPUT)
def runtime(request: pytest.FixtureRequest, nano: Sam, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """A tiny nano whose encoder takes photos."""
    exported = find_target(request.param).export(nano, Plan(Recipe(request.param, "fp32"), photo_input=True))
    spec = replace(nano.spec, photo_input=True)
    manifest = small_manifest(name=spec.name, spec=spec, target=request.param)
    folder = tmp_path_factory.mktemp("photo") / "artifact"
    artifact = write_artifact(folder, manifest, exported.files | {"golden.npz": pack(())})
    return load_to_verify(artifact, 1)


@pytest.mark.parametrize("size", [(300, 451), (64, 64), (1, 400), (1, 1), (700, 20)])
def test_an_encoder_that_takes_photos_gives_the_same_embedding(
    runtime: Runtime, nano: Sam, size: tuple[int, int]
) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    taken, input_size = preprocess(photo, runtime.spec)
    assert taken.dtype == np.uint8 and taken.shape == photo.shape
    image, expected_size = preprocess(photo, nano.spec)
    assert input_size == expected_size
    got, expected = runtime.encode(taken).image_embeddings, TorchRuntime(nano).encode(image).image_embeddings
    # A grey level at a few pixels: this small random network answers noise with noise.
    assert (got * expected).sum() > 0.99 * np.linalg.norm(got) * np.linalg.norm(expected)


def test_masks_are_those_of_the_model_that_takes_images(runtime: Runtime, nano: Sam, photos: list[Photo]) -> None:
    masks = []
    for engine in (runtime, TorchRuntime(nano)):
        predictor = SamPredictor(engine)
        predictor.set_image(photos[0])
        box = np.array([[40.0, 30.0, 400.0, 420.0], [200.0, 100.0, 500.0, 300.0]])
        masks.append(predictor.predict_batch(boxes=box, multimask_output=False)[0])
    ours, theirs = masks
    assert theirs.any() and not theirs.all()
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.99


def test_what_is_no_photo_is_refused(runtime: Runtime, nano: Sam) -> None:
    image, _ = preprocess(np.zeros((30, 20, 3), np.uint8), nano.spec)
    with pytest.raises(ImageError, match="photo has shape"):
        runtime.encode(image)
    with pytest.raises(ImageError, match="photo has dtype float32, expected uint8"):
        runtime.encode(np.zeros((30, 20, 3), np.float32))
    predictor = SamPredictor(runtime)
    with pytest.raises(ImageError, match="takes whole photos"):
        predictor.set_torch_image(np.zeros((1, 3, 64, 43), np.float32), (300, 200))


def test_the_manifest_says_what_the_encoder_takes(runtime: Runtime) -> None:
    manifest = runtime.manifest  # type: ignore[attr-defined]
    (taken,) = manifest.graphs["encoder"].inputs
    assert (taken.name, taken.dtype, taken.shape) == ("photo", "uint8", ("height", "width", 3))
