from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sam_edge.errors import OutputError
from sam_edge.files import atomic_file, atomic_folder, write_bytes_atomically


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_written_bytes_replace_what_was_there_and_leave_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    write_bytes_atomically(path, b"first")
    write_bytes_atomically(str(path), b"second")
    assert path.read_bytes() == b"second"
    assert names(tmp_path) == {"mask.png"}


def test_a_new_file_has_the_permissions_that_open_would_give(tmp_path: Path) -> None:
    write_bytes_atomically(tmp_path / "ours", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_keeps_the_old_file_whole(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_file(path) as file:
        file.write(b"half of the n")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"checkpoint"}


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    write_bytes_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_paths_that_cannot_be_written_say_why_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cases = {
        tmp_path / "missing" / "mask.png": "its folder does not exist. Create it first",
        tmp_path / "file" / "mask.png": "a part of the path is a file",
        tmp_path: "it is a folder. Give the name of a file",
        tmp_path / ("x" * 300): "the name is too long",
    }
    for path, reason in cases.items():
        with pytest.raises(OutputError, match=reason) as caught:
            write_bytes_atomically(path, b"data")
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == {"file"}


def test_an_error_about_another_file_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "out"):
        (tmp_path / "photo.jpg").read_bytes()


def test_a_device_is_written_directly_and_a_full_one_says_so() -> None:
    write_bytes_atomically("/dev/null", b"data")
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OutputError, match=r"the disk is full\. Free some space"):
        write_bytes_atomically("/dev/full", b"data")


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from sam_edge.errors import OutputError
from sam_edge.files import write_bytes_atomically
folder = Path({str(tmp_path)!r})
write_bytes_atomically(folder / "old", b"old")
try:
    write_bytes_atomically(folder / "old", bytes(1 << 20))
except OutputError as error:
    print(error, (folder / "old").read_bytes(), [path.name for path in folder.iterdir()])
"""
    # A file system of 256 kB in a mount namespace of its own, where the system allows that to ordinary users.
    command = ["unshare", "-Urm", "sh", "-c", f'mount -t tmpfs -o size=256k none "{tmp_path}" && exec "$0" "$@"']
    try:
        done = subprocess.run([*command, sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert "the disk is full" in done.stdout, done.stderr
    assert "b'old' ['old']" in done.stdout


def test_a_file_past_the_size_limit_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutputError, match="larger than may be written"):
            write_bytes_atomically(path, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"out"}


def test_a_folder_appears_whole_and_replaces_only_one_of_its_kind(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model", marker="manifest.json") as draft:
        assert names(tmp_path) == {draft.name}
        (draft / "manifest.json").write_text("1")
        (draft / "weights").write_text("1")
    with atomic_folder(tmp_path / "model", marker="manifest.json") as draft:
        (draft / "manifest.json").write_text("2")
    assert names(tmp_path) == {"model"}
    assert names(tmp_path / "model") == {"manifest.json"}
    assert (tmp_path / "model" / "manifest.json").read_text() == "2"


def test_a_folder_of_photos_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with (
        pytest.raises(OutputError, match=r"holds no manifest\.json"),
        atomic_folder(tmp_path / "photos", "manifest.json"),
    ):
        pass
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model", "manifest.json") as draft:
        (draft / "manifest.json").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "model", "manifest.json") as draft:
        (draft / "manifest.json").write_text("new")
        raise KeyboardInterrupt
    assert (tmp_path / "model" / "manifest.json").read_text() == "old"
    assert names(tmp_path) == {"model"}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_a_folder_without_permission_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="permission denied"):
            write_bytes_atomically(tmp_path / "out", b"data")
    finally:
        tmp_path.chmod(0o700)
