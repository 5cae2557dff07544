"""The server without a browser: who is answered, what is served, what is written."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_edge.errors import DataError
from sam_edge.evaluate.dataset import PHOTO_SUFFIXES, open_records
from sam_edge.evaluate.provenance import DATA_SUFFIXES
from sam_edge.quantize.calibrate import photo_files
from sam_edge.rle import mask_to_rle, rle_to_coco
from sam_edge.web.folder import PHOTO_TYPES, PhotoFolder
from sam_edge.web.server import Site, make_server
from tests.web.conftest import serve

WIDTH, HEIGHT = 40, 30


def ask(
    url: str, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    host, port = url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, given)
    answer = connection.getresponse()
    return answer.status, dict(answer.headers), answer.read()


def write(url: str, name: str, document: Any, **headers: str) -> tuple[int, dict[str, str], bytes]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return ask(
        url,
        f"/api/annotations/{name}",
        "PUT",
        body,
        **({"Origin": url, "Content_Type": "application/json"} | headers),
    )


def annotation(height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    mask = np.zeros((height, width), bool)
    mask[5:20, 8:30] = True
    fields = {"bbox": [8, 5, 21, 14], "area": 1, "predicted_iou": 0.9, "stability_score": 0.8}
    return {"segmentation": rle_to_coco(mask_to_rle(mask)), "point_coords": [[9.5, 10]], "category": "cup", **fields}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "photos"
    directory.mkdir()
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT), "teal").save(directory / name)
    return directory


@pytest.fixture
def url(files: dict[str, Path], folder: Path) -> Any:
    with serve(Site(files, PhotoFolder(folder))) as address:
        yield address


def test_it_listens_on_loopback_unless_told_otherwise(files: dict[str, Path]) -> None:
    server = make_server(Site(files))
    try:
        assert server.server_address[0] == "127.0.0.1"
        assert server.server_address[1] > 0
    finally:
        server.server_close()


def test_every_answer_isolates_the_page_and_forbids_other_sources(url: str) -> None:
    for path in ("/", "/worker.js", "/ort/ort-wasm-simd-threaded.wasm.gz", "/nothing"):
        _, headers, _ = ask(url, path)
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe-inline" not in policy and "unsafe-eval'" not in policy.replace("wasm-unsafe-eval", "")
        assert "Access-Control-Allow-Origin" not in headers


def test_types_that_a_browser_needs(url: str) -> None:
    expected = {
        "/": "text/html",
        "/main.js": "text/javascript",
        "/ort/ort.wasm.min.mjs": "text/javascript",
        "/style.css": "text/css",
        "/model/manifest.json": "application/json",
        "/model/encoder.onnx": "application/octet-stream",
        "/examples/coffee.jpg": "image/jpeg",
        "/api/photos/a.jpg": "image/jpeg",
    }
    for path, media_type in expected.items():
        status, headers, body = ask(url, path)
        assert (status, headers["Content-Type"].split(";")[0]) == (200, media_type)
        assert len(body) == int(headers["Content-Length"]) > 0
        assert ask(url, path, "HEAD")[2] == b""


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1.evil.example", "0.0.0.0:1", ""]
)
def test_another_host_is_refused(url: str, host: str) -> None:
    assert ask(url, "/", Host=host)[0] == 403


def test_localhost_is_this_server_too(url: str) -> None:
    assert ask(url, "/", Host="localhost:" + url.rsplit(":", 1)[1])[0] == 200


def test_told_to_listen_to_all_it_answers_to_numbers_and_to_no_name(files: dict[str, Path]) -> None:
    server = make_server(Site(files), "0.0.0.0")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        port = server.server_address[1]
        local = f"http://127.0.0.1:{port}"
        assert ask(local, "/", Host=f"192.0.2.7:{port}")[0] == 200
        assert ask(local, "/", Host=f"evil.example:{port}")[0] == 403
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"},
    ],
)
def test_another_origin_is_refused(url: str, headers: dict[str, str]) -> None:
    assert ask(url, "/api/photos/a.jpg", **headers)[0] == 403
    assert ask(url, "/api/photos", **headers)[0] == 403


def test_a_link_from_another_site_may_open_the_page_and_nothing_else(url: str) -> None:
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert ask(url, "/", **link)[0] == 200
    assert ask(url, "/api/photos/a.jpg", **link)[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.jpg",
        "/api/photos/../secret.jpg",
        "/api/photos/..%2Fsecret.jpg",
        "/api/photos/%2e%2e/secret.jpg",
        "/api/photos/..%5Csecret.jpg",
        "/api/photos//etc/passwd",
        "/api/photos/%2Fetc%2Fpasswd",
        "/api/photos/link.jpg",
        "/api/photos/below/c.jpg",
        "/api/photos/linked/secret.jpg",
        "/api/photos/.hidden.jpg",
        "/api/photos/notes.txt",
        "/api/photos/pipe.jpg",
        "/api/photos/a.jpg%00.png",
        "/api/photos/",
        "/model/../../__init__.py",
        "/static/index.html",
        "/%ff",
    ],
)
def test_nothing_outside_the_folder_is_served(url: str, folder: Path, path: str) -> None:
    Image.new("RGB", (4, 4)).save(folder.parent / "secret.jpg")
    (folder / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "below").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "below" / "c.jpg")
    Image.new("RGB", (4, 4)).save(folder / ".hidden.jpg")
    (folder / "notes.txt").write_text("secret")
    os.mkfifo(folder / "pipe.jpg")
    status, _, body = ask(url, path)
    assert status in (400, 404), body
    assert b"secret" not in body or b"is not a photo" in body
    assert [photo["name"] for photo in json.loads(ask(url, "/api/photos")[2])] == ["a.jpg", "b.png"]


def test_without_a_folder_there_is_nothing_to_read_or_write(address: str) -> None:
    assert ask(address, "/api/photos")[0] == 404
    assert write(address, "a.jpg", {"annotations": []})[0] == 404
    assert json.loads(ask(address, "/site.json")[2])["folder"] is False


def test_a_saved_site_names_its_build_and_this_server_does_not(
    url: str, files: dict[str, Path], tmp_path: Path
) -> None:
    assert "offline" not in json.loads(ask(url, "/site.json")[2])
    offline = json.loads(Site(files).settings())["offline"]
    assert set(offline["files"]) == set(files) - {"site.json"}
    assert offline["files"]["main.js"] == hashlib.sha256(files["main.js"].read_bytes()).hexdigest()
    changed = tmp_path / "style.css"
    changed.write_text("body {}")
    builds = [
        json.loads(site.settings())["offline"]["build"] for site in (Site(files), Site(files | {"style.css": changed}))
    ]
    assert builds[0] == offline["build"] != builds[1]


def test_a_written_annotation_is_a_labelled_set(url: str, folder: Path) -> None:
    status, _, body = write(url, "a.jpg", {"image": {"file_name": "/etc/x"}, "annotations": [annotation()]})
    assert (status, json.loads(body)) == (200, {"objects": 1})
    assert {path.name for path in folder.iterdir()} == {"a.jpg", "a.json", "b.png"}  # and no temporary file
    (record,) = open_records([folder])
    (found,) = record.objects()
    assert (found.area, found.category, found.size) == (15 * 22, "cup", (HEIGHT, WIDTH))  # counted anew
    assert record.annotation["image"]["file_name"] == "a.jpg"
    photos = json.loads(ask(url, "/api/photos")[2])
    assert photos == [{"name": "a.jpg", "labelled": True}, {"name": "b.png", "labelled": False}]
    assert json.loads(ask(url, "/api/annotations/a.jpg")[2]) == record.annotation
    assert json.loads(ask(url, "/api/annotations/b.png")[2]) is None


def test_unknown_fields_are_not_written(url: str, folder: Path) -> None:
    write(url, "a.jpg", {"annotations": [annotation() | {"script": "x" * 1000}], "more": 1})
    assert set(json.loads((folder / "a.json").read_bytes())) == {"image", "annotations"}
    assert b"script" not in (folder / "a.json").read_bytes()


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ([], "annotations"),
        ({"annotations": 3}, "annotations"),
        ({"annotations": [3]}, "object 1"),
        ({"annotations": [{}]}, "object 1"),
        ({"annotations": [annotation(10, 10)]}, "10, 10"),
        ({"annotations": [annotation() | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "~~"}}]}, "damaged"),
        ({"annotations": [annotation() | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "1"}}]}, "do not fill"),
        ({"annotations": [annotation() | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "`U1o"}}]}, "damaged"),
        ({"annotations": [annotation() | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [1200]}}]}, "compressed"),
        ({"annotations": [annotation() | {"bbox": [1, 2, 3]}]}, "object 1"),
        ({"annotations": [annotation() | {"bbox": [1, 2, 3, 10**400]}]}, "object 1"),
        ({"annotations": [annotation() | {"predicted_iou": "0.9"}]}, "object 1"),
        ({"annotations": [annotation() | {"stability_score": 1e999}]}, "object 1"),
        ({"annotations": [annotation()] * 10_001}, "10001"),
    ],
)
def test_what_is_no_annotation_is_refused_and_leaves_what_was(url: str, folder: Path, document: Any, part: str) -> None:
    write(url, "a.jpg", {"annotations": [annotation()]})
    before = (folder / "a.json").read_bytes()
    status, _, body = write(url, "a.jpg", document)
    assert status == 422 and part in json.loads(body)["error"]
    assert (folder / "a.json").read_bytes() == before
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Length": "999999999999"}, 413),
        ({"Content_Length": "-1"}, 411),
        ({"Host": "evil.example"}, 403),
    ],
)
def test_a_write_must_come_from_the_page(url: str, folder: Path, headers: dict[str, str], status: int) -> None:
    assert write(url, "a.jpg", {"annotations": []}, **headers)[0] == status
    assert not (folder / "a.json").exists()


def test_a_write_without_an_origin_is_refused(url: str, folder: Path) -> None:
    body = json.dumps({"annotations": []}).encode()
    assert ask(url, "/api/annotations/a.jpg", "PUT", body, Content_Type="application/json")[0] == 403
    assert ask(url, "/api/annotations/a.jpg", "POST", body, Origin=url)[0] == 501
    assert ask(url, "/api/annotations/a.jpg", "DELETE", Origin=url)[0] == 501
    assert not (folder / "a.json").exists()


def test_a_body_that_is_no_json_is_refused(url: str, folder: Path) -> None:
    assert write(url, "a.jpg", b"{" * 100_000)[0] == 400
    assert not (folder / "a.json").exists()


@pytest.mark.parametrize("name", ["c.jpg", "..%2Fc.jpg", "link.jpg", "a.json", "a.txt", ""])
def test_only_beside_a_photo_it_serves(url: str, folder: Path, name: str) -> None:
    (folder.parent / "c.jpg").write_bytes((folder / "a.jpg").read_bytes())
    (folder / "link.jpg").symlink_to(folder.parent / "c.jpg")
    before = sorted(folder.parent.rglob("*"))
    assert write(url, name, {"annotations": []})[0] == 404
    assert sorted(folder.parent.rglob("*")) == before


def test_a_json_that_is_a_link_or_somebody_elses_is_not_replaced(url: str, folder: Path) -> None:
    target = folder.parent / "precious.json"
    target.write_text('{"image": {}, "annotations": []}')
    (folder / "a.json").symlink_to(target)
    assert write(url, "a.jpg", {"annotations": []})[0] == 422
    assert target.read_text() == '{"image": {}, "annotations": []}'
    (folder / "b.json").write_text('{"name": "my package"}')
    assert write(url, "b.png", {"annotations": []})[0] == 422
    assert (folder / "b.json").read_text() == '{"name": "my package"}'


def test_a_json_nested_beyond_reading_is_somebody_elses_and_gets_an_answer(url: str, folder: Path) -> None:
    deep = b'{"image": ' + b"[" * 100_000
    (folder / "a.json").write_bytes(deep)
    status, _, body = ask(url, "/api/annotations/a.jpg")
    assert status == 404 and "is no annotation" in json.loads(body)["error"]
    assert write(url, "a.jpg", {"annotations": []})[0] == 422
    assert (folder / "a.json").read_bytes() == deep


def test_the_page_labels_the_photos_that_a_data_set_a_calibration_and_a_record_read(tmp_path: Path) -> None:
    for suffix in (*PHOTO_SUFFIXES, ".gif", ".bmp", ".avif", ".tif", ".heic"):
        (tmp_path / f"{suffix[1:]}{suffix}").write_bytes(b"a photo")
        (tmp_path / f"{suffix[1:].upper()}-2{suffix.upper()}").write_bytes(b"a photo")
    labelled = set(PhotoFolder(tmp_path).names())
    records = open_records([tmp_path], annotated=False)
    assert labelled == {f"{record.name}{record.photo_suffix}" for record in records}
    assert labelled == {file.name for file in photo_files(tmp_path)}
    assert len(labelled) == 2 * len(PHOTO_SUFFIXES) and set(PHOTO_TYPES) == set(PHOTO_SUFFIXES)
    assert {".json", ".tar", *PHOTO_SUFFIXES} == DATA_SUFFIXES


def test_a_full_disk_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = PhotoFolder(folder)
    photos.write_annotation("a.jpg", {"annotations": []})
    before = (folder / "a.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="disk is full"):
        photos.write_annotation("a.jpg", {"annotations": [annotation()]})
    assert (folder / "a.json").read_bytes() == before
    assert len(list(folder.iterdir())) == 3


def test_a_turned_photo_is_measured_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "turned.jpg", exif=exif)
    PhotoFolder(tmp_path).write_annotation("turned.jpg", {"annotations": [annotation(WIDTH, HEIGHT)]})
    assert json.loads((tmp_path / "turned.json").read_bytes())["image"]["height"] == WIDTH


def test_two_photos_of_one_json_are_refused_at_the_start(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    with pytest.raises(DataError, match=r"a\.jpg and a\.png would share"):
        PhotoFolder(folder)
    with pytest.raises(DataError, match="is not a folder"):
        PhotoFolder(folder / "a.jpg")


def test_a_request_that_is_none_gets_an_answer_without_echo(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"<script> / HTTP/9\r\n\r\n")
        answer = connection.recv(4096)
    assert b"script>" not in answer and b"Traceback" not in answer
