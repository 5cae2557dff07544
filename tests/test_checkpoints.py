"""Weights in and out of files, and what broken, foreign and hostile files give."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from sam_edge.errors import CheckpointError, OutputError
from sam_edge.model import checkpoints
from sam_edge.model.checkpoints import load_checkpoint, load_model, save_checkpoint, take_over
from sam_edge.model.config import NanoEncoderConfig
from sam_edge.model.registry import MODELS, build_model
from tests.model_inputs import random_image, random_prompts
from tests.tiny_models import TINY_CONFIGS, tiny_model


def public_state(variant: str) -> dict[str, Tensor]:
    """Names and shapes of a public file; every tensor views one number, so that a file of any variant is small."""
    with torch.device("meta"):
        shapes = build_model(variant).state_dict()
    return {name: torch.full((), 0.5, dtype=x.dtype).expand(x.shape) for name, x in shapes.items()}


def save_public(path: Path, variant: str, **changes: Tensor | None) -> Path:
    state = {name: x for name, x in (public_state(variant) | changes).items() if x is not None}
    torch.save(state, path)
    return path


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    save_checkpoint(tiny_model("vit"), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def refused(path: Path, **arguments: Any) -> str:
    """The one line that loading `path` raises."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, **arguments)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize("variant", ["vit_b", "vit_t"])
def test_public_file_is_recognised_and_loads_unchanged_and_strictly(variant: str, tmp_path: Path) -> None:
    model = load_model(save_public(tmp_path / "sam.pth", variant))
    assert model.config == MODELS[variant]
    assert not model.training
    state = public_state(variant)
    assert list(model.state_dict()) == list(state)
    for name, x in model.state_dict().items():
        assert x.dtype == state[name].dtype and torch.equal(x, state[name]), name
    assert model.pixel_mean.device.type == "cpu"  # what no file holds is there too


@pytest.mark.parametrize("kind", sorted(TINY_CONFIGS))
def test_saved_model_loads_with_the_same_configuration_weights_and_masks(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert loaded.config == model.config == TINY_CONFIGS[kind]
    for name, x in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], x), name
    image = torch.randn(1, 3, 64, 64)
    for got, want in zip(loaded.encode(image), model.encode(image), strict=True):
        assert torch.equal(got, want)


def test_half_precision_file_is_half_as_large_and_loads_as_float32(tmp_path: Path) -> None:
    model = tiny_model("tinyvit")
    save_checkpoint(model, tmp_path / "full.safetensors")
    save_checkpoint(model, tmp_path / "half.safetensors", dtype=torch.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "full.safetensors").stat().st_size
    loaded = load_checkpoint(tmp_path / "half.safetensors").state_dict()
    for name, x in model.state_dict().items():
        assert loaded[name].dtype == x.dtype, name
        torch.testing.assert_close(loaded[name], x, rtol=1e-3, atol=1e-4)  # float16 has 11 bits


def test_half_precision_public_file_loads_as_float32(tmp_path: Path) -> None:
    torch.save({name: x.half() for name, x in public_state("vit_t").items()}, tmp_path / "half.pt")
    assert {x.dtype for x in load_checkpoint(tmp_path / "half.pt").parameters()} == {torch.float32}


def test_public_weights_converted_to_safetensors_are_recognised(tmp_path: Path) -> None:
    state = {name: x.contiguous() for name, x in public_state("vit_t").items()}
    safetensors.torch.save_file(state, tmp_path / "mobile_sam.safetensors")
    assert load_checkpoint(tmp_path / "mobile_sam.safetensors").spec.name == "vit_t"


def test_file_without_batch_norm_counters_loads(tmp_path: Path) -> None:
    counters = {name: None for name in public_state("vit_t") if name.endswith("num_batches_tracked")}
    assert counters
    assert load_checkpoint(save_public(tmp_path / "old.pt", "vit_t", **counters)).spec.name == "vit_t"


def test_file_from_before_zip_archives_loads(tmp_path: Path) -> None:
    torch.save(public_state("vit_t"), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert load_checkpoint(tmp_path / "old.pt").spec.name == "vit_t"


def test_model_does_not_change_when_its_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mobile_sam.pt"
    torch.save({name: x.contiguous() for name, x in public_state("vit_t").items()}, path)
    model = load_checkpoint(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert all(bool((x == 0.5).all()) for x in model.parameters())


def test_other_input_side_interpolates_the_position_tables(tiny_file: Path) -> None:
    model = load_checkpoint(tiny_file, image_size=128)
    assert model.spec.image_size == 128
    assert model.encode(torch.randn(1, 3, 128, 128))[0].shape == (1, 32, 8, 8)
    again = tiny_file.with_name("again.safetensors")
    save_checkpoint(model, again)
    assert load_checkpoint(again).spec.image_size == 128


def test_another_variant_than_asked_is_refused_naming_both(tmp_path: Path) -> None:
    message = refused(save_public(tmp_path / "sam.pth", "vit_l"), variant="vit_b")
    assert "holds vit_l, expected vit_b" in message


def test_missing_and_unexpected_names_are_listed_shortly(tmp_path: Path) -> None:
    changes: dict[str, Tensor | None] = {f"extra.{i}": torch.zeros(1) for i in range(5)}
    changes |= {"mask_decoder.iou_token.weight": None}
    message = refused(save_public(tmp_path / "sam.pth", "vit_t", **changes))
    assert "does not fit vit_t: missing: mask_decoder.iou_token.weight; unexpected: extra.0" in message
    assert "and 2 more" in message


def test_wrong_shape_is_refused_with_got_and_expected(tmp_path: Path) -> None:
    changes = {"mask_decoder.iou_token.weight": torch.zeros(1, 128)}
    message = refused(save_public(tmp_path / "sam.pth", "vit_t", **changes))
    assert "mask_decoder.iou_token.weight has shape (1, 128), expected (1, 256)" in message


@pytest.mark.parametrize(
    "content",
    [
        {"layer.weight": torch.zeros(2)},
        {},
        {"model": {"weight": torch.zeros(2)}},
        [torch.zeros(2)],
        torch.zeros(2),
        {"epoch": 3},
    ],
    ids=["another model", "empty", "wrapped", "list", "tensor", "number"],
)
def test_file_of_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    assert "expected" in refused(tmp_path / "other.pth")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_file_is_refused(suffix: str, keep: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    state = {name: x.contiguous() for name, x in tiny_model("vit").state_dict().items()}
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert "again" in refused(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_file_of_text_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"page{suffix}"
    path.write_text("<html>404 Not Found</html>\n" * 50)
    assert "again" in refused(path)


class CreatesFile:
    """A pickle of this creates a file in whoever loads it without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["pickle", "torch", "torch, old format", "zip with a foreign pickle"])
def test_malicious_pickle_is_refused_and_never_executed(form: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "executed", tmp_path / "sam.pth"
    hostile = public_state("vit_t") | {"image_encoder.head.bias": CreatesFile(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps({"weight": CreatesFile(trace)}))
    elif form == "zip with a foreign pickle":
        torch.save({}, path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, pickle.dumps(CreatesFile(trace)) if name.endswith("data.pkl") else content)
    else:
        torch.save(hostile, path, _use_new_zipfile_serialization=form == "torch")
    refused(path)
    assert not trace.exists()
    pickle.load(io.BytesIO(pickle.dumps(CreatesFile(trace))))
    assert trace.exists()  # the pickle is a live one


@pytest.mark.parametrize(
    "edit",
    [
        lambda config: config["encoder"].update(kind="resnet"),
        lambda config: config["encoder"].update(depth="many"),
        lambda config: config["encoder"].update(num_heads=0),
        lambda config: config["encoder"].update(image_size=50),
        lambda config: config.update(surprise=1),
        lambda config: config.pop("decoder"),
        lambda config: config["decoder"].update(activation=["gelu"]),
    ],
    ids=["kind", "type", "value", "side", "surplus", "missing", "unhashable"],
)
def test_edited_configuration_is_refused(edit: Any, tiny_file: Path) -> None:
    config = TINY_CONFIGS["vit"].to_dict()
    edit(config)
    metadata = {checkpoints.METADATA_KEY: json.dumps(config)}
    safetensors.torch.save_file(safetensors.torch.load_file(tiny_file), tiny_file, metadata)
    refused(tiny_file)


def test_configuration_that_is_not_json_is_refused(tiny_file: Path) -> None:
    state = safetensors.torch.load_file(tiny_file)
    safetensors.torch.save_file(state, tiny_file, {checkpoints.METADATA_KEY: "{"})
    refused(tiny_file)


def test_configuration_that_differs_from_the_weights_is_refused(tiny_file: Path) -> None:
    config = TINY_CONFIGS["vit"].to_dict()
    config["encoder"]["depth"] = 3
    state = safetensors.torch.load_file(tiny_file)
    safetensors.torch.save_file(state, tiny_file, {checkpoints.METADATA_KEY: json.dumps(config)})
    assert "missing: image_encoder.blocks.2.norm1.weight" in refused(tiny_file)


def test_absent_file_and_folder_are_refused_with_the_models_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pth", tmp_path):
        assert "vit_b, vit_l, vit_h, vit_t, nano" in refused(path)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h", "vit_t"])
def test_public_model_by_name_says_where_its_weights_are(name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{name} has no weights in this package\. Download https://"):
        load_model(name)


def test_unknown_variant_and_impossible_side_are_refused(tiny_file: Path) -> None:
    with pytest.raises(CheckpointError, match="'vit_x' is not a model, expected one of: vit_b"):
        load_checkpoint(tiny_file, variant="vit_x")
    with pytest.raises(CheckpointError, match="image_size is 100, expected a multiple of 16"):
        load_checkpoint(tiny_file, image_size=100)
    with pytest.raises(CheckpointError, match="image_size is 272, expected a multiple of 32 for nano"):
        build_model("nano", image_size=272)


def test_nano_by_name_loads_from_a_checkout_and_says_what_to_do_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights" / "nano.safetensors"
    monkeypatch.setattr(checkpoints, "NANO_WEIGHTS", weights)
    with pytest.raises(CheckpointError, match="Use the onnx runtime"):
        load_model("nano")
    weights.parent.mkdir()
    model = build_model("nano")
    save_checkpoint(model, weights)
    assert torch.equal(load_model("nano").mask_decoder.iou_token.weight, model.mask_decoder.iou_token.weight)


def test_saving_where_nothing_can_be_written_raises_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent/model\.safetensors"):
        save_checkpoint(tiny_model("vit"), tmp_path / "absent" / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_saving_keeps_the_old_file(tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tiny_file.read_bytes()

    def interrupt(*_: Any) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tiny_model("vit"), tiny_file)
    assert tiny_file.read_bytes() == before
    assert list(tiny_file.parent.iterdir()) == [tiny_file]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_built_model_knows_the_whole_configuration_it_was_built_from(name: str) -> None:
    with torch.device("meta"):
        assert build_model(name).config == MODELS[name]


def test_a_grown_nano_computes_what_the_smaller_one_did() -> None:
    config = TINY_CONFIGS["nano"]
    encoder = config.encoder
    assert isinstance(encoder, NanoEncoderConfig) and encoder.pixel_path and encoder.neck_blocks
    smaller = build_model(replace(config, encoder=replace(encoder, pixel_path=(), neck_blocks=0)))
    grown = build_model(config)
    take_over(grown, smaller.state_dict(), "smaller.safetensors")
    image = torch.rand(1, 3, encoder.image_size, encoder.image_size)
    with torch.no_grad():
        for ours, theirs in zip(grown.encode(image), smaller.encode(image), strict=True):
            assert torch.equal(ours, theirs)
    grown.image_encoder.pixel_path.to_skip_4.bias.data += 1  # the path does reach the skips
    with torch.no_grad():
        assert not torch.equal(grown.encode(image)[1], smaller.encode(image)[1])


def test_a_nano_grown_by_a_prompt_map_draws_the_masks_of_the_one_without() -> None:
    config = TINY_CONFIGS["nano"]
    assert config.decoder.box_ellipse
    torch.manual_seed(0)
    smaller = build_model(replace(config, decoder=replace(config.decoder, box_ellipse=False)))
    grown = build_model(config)
    take_over(grown, smaller.state_dict(), "smaller.safetensors")
    prompts = [torch.from_numpy(part) for part in vars(random_prompts(smaller.spec, 2, 3)).values()]
    with torch.no_grad():
        embeddings = smaller.encode(torch.from_numpy(random_image(smaller.spec)))
        before, after = (model.decode(embeddings, *prompts) for model in (smaller, grown))
        for ours, theirs in zip(after, before, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)  # sums of one term more
        grown.mask_decoder.dense_to_upscaled.weight[:, -1] += 1  # the map does reach the masks
        assert (grown.decode(embeddings, *prompts)[0] - before[0]).abs().max() > 0.1


@pytest.mark.parametrize("other", ["vit", "tinyvit"])
def test_another_kind_of_model_cannot_be_grown_from(other: str) -> None:
    with pytest.raises(CheckpointError, match=r"other\.pt has .* no place for, expected a checkpoint of the same kind"):
        take_over(tiny_model("nano"), tiny_model(other).state_dict(), "other.pt")
