from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from sam_edge.errors import DataError
from sam_edge.evaluate.dataset import Record
from sam_edge.train.loop import TrainConfig, train
from sam_edge.train.stream import SampleStream, _Reader, streamed_and_held_out
from sam_edge.train.task import Place
from tests.sa1b import PHOTOS, write_set


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)).save(buffer, "jpeg")
    return buffer.getvalue()


def annotation(image_id: int) -> bytes:
    segmentation = {"size": [24, 32], "counts": [100, 300, 368]}
    entry = {"id": 1, "area": 300, "segmentation": segmentation}
    return json.dumps({"image": {"image_id": image_id, "height": 24, "width": 32}, "annotations": [entry]}).encode()


def write_shard(path: Path, numbers: range, broken: tuple[int, ...] = ()) -> Path:
    """An SA-1B tar of small photos; those in `broken` have bytes that are no JPEG."""
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            photo = b"not a photo" * 20 if number in broken else jpeg(number)
            for name, data in ((f"sa_{number}.jpg", photo), (f"sa_{number}.json", annotation(number))):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shards")
    return [write_shard(folder / f"sa_{i:06d}.tar", range(9 * i, 9 * i + 9)) for i in range(6)]


class Decoded:
    """Makes samples of records, and counts which photos were decoded."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any] | None:
        assert record.photo().shape == (24, 32, 3)
        self.names[record.name] += 1
        return {"name": record.name, "draw": float(rng.random())}


def batches(stream: SampleStream, count: int) -> list[list[tuple[str, float]]]:
    loader = DataLoader(
        stream, batch_size=stream.place.share, num_workers=stream.place.workers, collate_fn=lambda samples: samples
    )
    return [[(s["name"], s["draw"]) for s in batch] for batch, _ in zip(loader, range(count), strict=False)]


def test_an_epoch_reads_every_photo_once_across_two_nodes_with_two_workers(shards: list[Path], tmp_path: Path) -> None:
    orders = []
    for epoch in (0, 1):
        read: list[str] = []
        for rank in (0, 1):
            stream = SampleStream(shards, Decoded(), 7, Place(rank, 2, 2, 3, 0), tmp_path)
            for worker in (0, 1):
                read += [record.name for record in _Reader(stream, worker, 2).epoch(epoch)]
        assert sorted(read) == sorted(f"sa_{i}" for i in range(54))
        orders.append(read)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_continues_in_the_same_order_and_decodes_nothing_twice(
    shards: list[Path], tmp_path: Path, workers: int
) -> None:
    """Past the end of an epoch, too: a process has 27 photos an epoch, and this resumes after 33."""
    whole = batches(SampleStream(shards, Decoded(), 7, Place(1, 2, workers, 3, 0), tmp_path), 14)
    decoded = Decoded()
    rest = batches(SampleStream(shards, decoded, 7, Place(1, 2, workers, 3, 11), tmp_path), 3)
    assert rest == whole[11:]
    if workers == 0:  # what other processes decode cannot be counted from here
        assert decoded.names.total() <= 3 * 3 + 3


def test_broken_entries_are_left_out_named_and_do_not_shift_a_resumed_run(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "sa_000000.tar", range(150), broken=(70,))
    whole = batches(SampleStream([shard], Decoded(), 0, Place(0, 1, 0, 5, 0), tmp_path), 40)
    assert {name for batch in whole[:29] for name, _ in batch}.isdisjoint({"sa_70"})
    (line,) = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["where"].endswith("sa_000000.tar:sa_70.json") and "not a photo" in line
    assert line.count("sa_70") == 1  # `why` does not say it again
    rest = batches(SampleStream([shard], Decoded(), 0, Place(0, 1, 0, 5, 33), tmp_path), 7)
    assert rest == whole[33:]


def test_more_than_one_percent_of_broken_entries_stops_and_says_where_they_are_named(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "sa_000000.tar", range(150), broken=(3, 70))
    with pytest.raises(DataError, match=r"2 of 1\d\d entries .* at most 1%\. .*skipped\.jsonl"):
        batches(SampleStream([shard], Decoded(), 0, Place(0, 1, 0, 5, 0), tmp_path), 40)


@pytest.mark.parametrize("damage", ["header", "end"])
def test_a_tar_that_breaks_off_is_not_taken_for_a_short_one(tmp_path: Path, damage: str) -> None:
    shard = write_shard(tmp_path / "sa_000000.tar", range(40))
    data = shard.read_bytes()
    start = data.index(b"sa_10.jpg")
    shard.write_bytes(data[:start] + b"\xff" * 512 + data[start + 512 :] if damage == "header" else data[: start + 600])
    with pytest.raises(DataError, match="cannot be read"):
        batches(SampleStream([shard], Decoded(), 0, Place(0, 1, 0, 2, 0), tmp_path), 20)
    assert str(shard) in (tmp_path / "skipped.jsonl").read_text()


def test_what_is_no_tar_and_too_few_tars_are_named(tmp_path: Path, shards: list[Path]) -> None:
    with pytest.raises(DataError, match="Leave --stream out"):
        streamed_and_held_out([tmp_path], 0)
    packed = tmp_path / "sa.tar"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(PHOTOS / "coffee.jpg", arcname="coffee.jpg")
    with pytest.raises(DataError, match="not an uncompressed tar"):
        streamed_and_held_out([packed], 0)
    with pytest.raises(DataError, match="2 tars cannot be shared by 2 processes x 2 workers"):
        SampleStream(shards[:2], Decoded(), 0, Place(0, 2, 2, 1, 0), tmp_path)


def test_a_streamed_training_run_holds_photos_out_and_resumes_exactly(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "photos")
    with tarfile.open(tmp_path / "set-000.tar", "w") as tar:
        for copy in range(3):
            for file in sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".json")):
                tar.add(file, arcname=f"{copy}-{file.name}")
    config = TrainConfig(
        data=(str(tmp_path / "set-000.tar"),), image_size=64, steps=4, photos_per_step=2, objects_per_photo=1,
        warmup_steps=1, held_out_photos=2, correction_shares=(1.0,), stream=True,
    )  # fmt: skip
    whole = load_file(train(config, tmp_path / "whole", workers=0, validate_every=100))
    assert not (tmp_path / "whole" / "skipped.jsonl").exists()

    def stop(figures: dict[str, Any]) -> None:
        if figures["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "killed", workers=0, save_every_s=0, validate_every=100, report=stop)
    resumed = load_file(train(config, tmp_path / "killed", workers=0, validate_every=100))
    assert all((whole[name] == resumed[name]).all() for name in whole)
