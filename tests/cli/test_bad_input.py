"""Broken photos, prompts, models and disks: one clear line, status 1, nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.command_line import assert_one_line_error, run, start
from tests.sa1b import write_set

CLICK = ("--point", "0,0")


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size and holds next to nothing: a decompression bomb's head."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def write_broken(name: str, folder: Path, photo: Path) -> None:
    contents = {
        "empty.jpg": b"",
        "truncated.jpg": photo.read_bytes()[:5000],
        "text.jpg": b"this is not a photo\n" * 50,
        "bomb.png": png_of_size(60_000, 60_000),
        "large.png": png_of_size(12_000, 12_000),
        "cut.png": png_of_size(300, 200),
    }
    if name in contents:
        (folder / name).write_bytes(contents[name])
    elif name == "folder.jpg":
        (folder / name).mkdir()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("missing.jpg", ["missing.jpg does not exist"]),
        ("empty.jpg", ["empty.jpg is empty"]),
        ("truncated.jpg", ["truncated.jpg is damaged or truncated"]),
        ("text.jpg", ["text.jpg is not a photo", "JPEG, PNG"]),
        ("bomb.png", ["bomb.png", "3600000000 pixels", "expected at most"]),
        ("large.png", ["large.png", "12000 x 12000 = 144,000,000 pixels", "expected at most"]),
        ("cut.png", ["cut.png is damaged"]),
        ("folder.jpg", ["folder.jpg is not a regular file"]),
    ],
)
def test_a_broken_photo_is_one_clear_line(
    name: str, parts: list[str], photo: Path, small_model: Path, tmp_path: Path
) -> None:
    write_broken(name, tmp_path, photo)
    before = sorted(tmp_path.iterdir())
    assert_one_line_error(run("segment", name, *CLICK, "--model", small_model, cwd=tmp_path), *parts)
    assert sorted(tmp_path.iterdir()) == before


def save_unusual(kind: str, path: Path, photo: Path) -> tuple[int, int]:
    """Write a photo in an unusual form and return the (width, height) it should have once read."""
    with Image.open(photo) as image:
        rgb = image.convert("RGB")
    if kind == "16-bit":
        Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).save(path.with_suffix(".png"))
    elif kind == "exif-rotated":
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: turned by 90 degrees
        rgb.save(path.with_suffix(".jpg"), exif=exif)
        return rgb.height, rgb.width
    elif kind == "cmyk":
        rgb.convert("CMYK").save(path.with_suffix(".jpg"))
    elif kind == "1 x 1":
        rgb = rgb.crop((0, 0, 1, 1))
        rgb.save(path.with_suffix(".png"))
    elif kind == "1 x 4000":
        rgb = rgb.resize((1, 4000))
        rgb.save(path.with_suffix(".png"))
    else:
        rgb.convert({"palette": "P", "grey": "L", "rgba": "RGBA", "bilevel": "1"}[kind]).save(path.with_suffix(".png"))
    return rgb.size


@pytest.mark.parametrize(
    "kind", ["16-bit", "palette", "cmyk", "grey", "rgba", "bilevel", "exif-rotated", "1 x 1", "1 x 4000"]
)
def test_an_unusual_photo_works(kind: str, photo: Path, small_model: Path, tmp_path: Path) -> None:
    width, height = save_unusual(kind, tmp_path / "unusual", photo)
    (file,) = tmp_path.iterdir()
    done = run("segment", file.name, *CLICK, "--model", small_model, "--json", "-o", "out.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["image"] == {"width": width, "height": height}
    with Image.open(tmp_path / "out.png") as written:
        assert written.size == (width, height)


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        (("--point", "9000,5"), ["point (9000, 5) is outside the photo", "451"]),
        (("--point", "-1,5"), ["outside the photo"]),
        (("--point", "nan,5"), ["NaN or infinite"]),
        (("--point", "5,inf"), ["NaN or infinite"]),
        (("--box", "50,60,50,90"), ["empty or inverted"]),
        (("--box", "90,60,50,90"), ["empty or inverted", "x0 < x1"]),
        (("--box", "900,900,950,950"), ["does not overlap the photo"]),
        (("--mask", "no-such.png"), ["no-such.png does not exist"]),
    ],
)
def test_a_prompt_that_cannot_be_used_is_one_clear_line(
    prompt: tuple[str, str], parts: list[str], photo: Path, small_model: Path, tmp_path: Path
) -> None:
    assert_one_line_error(run("segment", photo, *prompt, "--model", small_model, cwd=tmp_path), *parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("output", "parts"),
    [
        ("no/such/folder/out.png", ["no/such/folder/out.png cannot be written", "does not exist"]),
        ("file.txt/out.png", ["cannot be written", "a file, not a folder"]),
        ("folder.png", ["cannot be written", "it is a folder"]),
    ],
)
def test_an_unwritable_output_is_one_clear_line(
    output: str, parts: list[str], photo: Path, small_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "folder.png").mkdir()
    assert_one_line_error(run("segment", photo, *CLICK, "--model", small_model, "-o", output, cwd=tmp_path), *parts)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file.txt", "folder.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_clear_line(photo: Path, small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    done = run("segment", photo, *CLICK, "--model", small_model, "-o", "closed/out.png", cwd=tmp_path)
    assert_one_line_error(done, "closed/out.png cannot be written", "permission denied")


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(
    photo: Path, small_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.png").write_bytes(b"from yesterday")

    def little_space() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # like a full disk, the write fails half-way

    done = run("segment", photo, *CLICK, "--model", small_model, "-o", "out.png", cwd=tmp_path, before=little_space)
    assert_one_line_error(done, "out.png cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert (tmp_path / "out.png").read_bytes() == b"from yesterday"


def test_a_full_disk_behind_standard_output_is_one_clear_line(photo: Path, small_model: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = run("segment", photo, *CLICK, "--model", small_model, "--json", cwd=tmp_path, stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "sam-edge: error: No space left on device. Check the path, its permissions and the free space."
    ]


def test_a_reader_that_has_seen_enough_is_no_error(small_model: Path, tmp_path: Path) -> None:
    process = start("models", "--json", cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 1


@pytest.mark.parametrize("damage", ["hash", "missing file", "manifest", "no model"])
def test_a_damaged_model_is_one_clear_line(damage: str, photo: Path, small_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(small_model, model)
    if damage == "hash":
        data = bytearray((model / "decoder.onnx").read_bytes())
        data[-1] ^= 1
        (model / "decoder.onnx").write_bytes(data)
    elif damage == "missing file":
        (model / "encoder.onnx").unlink()
    elif damage == "manifest":
        (model / "manifest.json").write_text("{")
    else:
        shutil.rmtree(model)
    done = run("segment", photo, *CLICK, "--model", "model", cwd=tmp_path)
    named = {"hash": "SHA-256", "missing file": "encoder.onnx", "manifest": "manifest.json", "no model": "'model'"}
    assert_one_line_error(done, named[damage])
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_damaged_checkpoint_is_one_clear_line(name: str, photo: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no weights in here" * 100)
    assert_one_line_error(run("segment", photo, *CLICK, "--model", name, cwd=tmp_path), name)


def test_an_unknown_runtime_is_one_clear_line(photo: Path, small_model: Path, tmp_path: Path) -> None:
    done = run("segment", photo, *CLICK, "--model", small_model, "--runtime", "abacus", cwd=tmp_path)
    assert_one_line_error(done, "'abacus'", "onnx", "torch")


def test_ctrl_c_ends_with_130_and_leaves_nothing(small_model: Path, tmp_path: Path) -> None:
    data = write_set(tmp_path / "set")
    for pair in sorted(data.iterdir()):
        for copy in range(40):  # enough work for minutes
            shutil.copy(pair, pair.with_stem(f"{pair.stem}-{copy}"))
    process = start("eval", data, "--model", small_model, "--pictures", "sheets", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "sheets").exists():  # made just before the model is loaded
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert stderr.strip().splitlines()[-1] == "sam-edge: interrupted"
    assert "Traceback" not in stderr
    assert not list((tmp_path / "sheets").iterdir())


@pytest.mark.parametrize("data", ["missing", "empty"])
def test_a_data_set_that_is_not_one_is_one_clear_line(data: str, small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_one_line_error(run("eval", data, "--model", small_model, cwd=tmp_path), data, "SA-1B")


def test_a_truncated_tar_is_one_clear_line(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "set.tar").write_bytes(b"not a tar" * 300)
    assert_one_line_error(run("eval", "set.tar", "--model", small_model, cwd=tmp_path), "set.tar", "tar")


def test_a_traceback_is_never_shown_for_a_closed_standard_error(photo: Path, tmp_path: Path) -> None:
    done = run("segment", photo, *CLICK, "--model", "nowhere", cwd=tmp_path, stderr=subprocess.STDOUT)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
