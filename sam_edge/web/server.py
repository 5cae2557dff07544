"""The page's server: a closed list of files, and with a folder its photos and their annotations.

Nothing is looked up on the disk by a path from the network: static files are enumerated at the start, photos go through
`folder.py`. Every request's Host must be this server's (so that no other site's name can be pointed at it), and whoever
says where it comes from must come from here.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sam_edge.artifact import MANIFEST_NAME, Artifact, open_artifact
from sam_edge.errors import ArtifactError, DataError, OutputError, SamEdgeError, first_line
from sam_edge.evaluate.provenance import file_sha256
from sam_edge.web.folder import MAX_ANNOTATION_BYTES, PhotoFolder

__all__ = ["CONTENT_SECURITY_POLICY", "Site", "make_server", "site_files"]

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    # Both together isolate the page, which is what shared memory, and with it threads, asks for.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".gz": "application/gzip",  # the page unpacks it itself, so no Content-Encoding
}
JSON_TYPE = "application/json"
WEBGPU_RUNTIME = "ort/ort-wasm-simd-threaded.jspi.wasm.gz"
IDLE_S = 30  # a connection without a request is closed


@dataclass(frozen=True)
class Site:
    """`files`: URL path without the first slash -> file. `folder`: the photos to label, or None."""

    files: dict[str, Path]
    folder: PhotoFolder | None = None

    def settings(self, *, offline: bool = True) -> bytes:
        """site.json: what of this the page may use, and with `offline` the build that its service worker keeps.

        {"build": hash over all there is, "files": {name: SHA-256}}; see web/src/offline.ts.
        """
        settings = json.loads(self.files["site.json"].read_bytes())
        settings |= {"folder": self.folder is not None, "webgpu": WEBGPU_RUNTIME in self.files}
        if offline:
            others = sorted((name, path) for name, path in self.files.items() if name != "site.json")
            listed = {name: file_sha256(path) for name, path in others}
            build = hashlib.sha256(json.dumps([settings, listed]).encode()).hexdigest()[:16]
            settings["offline"] = {"build": build, "files": listed}
        return json.dumps(settings).encode()


def site_files(model: Path) -> dict[str, Path]:
    """URL path -> file of the whole page: built files, the model's folder, example photos.

    The model's files are checked here, whole: a page may be published, and what it fetches was then never seen by
    `load`. Raises ArtifactError, also for a model that the page cannot run.
    """
    static = Path(str(files("sam_edge.web") / "static"))
    assets = Path(str(files("sam_edge.assets")))
    if not (static / "index.html").is_file():
        raise ArtifactError(f"the page is not built ({static} has no index.html). Run: make web")
    found = {path.relative_to(static).as_posix(): path for path in static.rglob("*") if path.is_file()}
    artifact = open_artifact(model)
    _check_page_can_run(artifact)
    for name in artifact.manifest.files.keys() - artifact.read_graphs().keys():
        artifact.read_file(name)
    found |= {f"model/{name}": model / name for name in (MANIFEST_NAME, *artifact.manifest.files)}
    return found | {f"examples/{path.name}": path for path in sorted((assets / "photos").glob("*.jpg"))}


def _check_page_can_run(artifact: Artifact) -> None:
    """What web/src/manifest.ts would refuse, refused before it is served or published."""
    manifest = artifact.manifest
    if manifest.target == "onnx" and not manifest.spec.photo_input and not manifest.fixed_sizes:
        return
    what = f"for {manifest.target!r:.60}"
    if manifest.spec.photo_input:
        what += " with an encoder that takes the photo itself"
    if manifest.fixed_sizes:
        what += f" with sizes fixed to {manifest.fixed_sizes!r:.60}"
    raise ArtifactError(
        f"{artifact.directory} is {what}; expected ONNX with free sizes and an encoder that takes prepared images. "
        "Export it with `--to onnx` and without --photo-input."
    )


def make_server(site: Site, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """A server that listens; port 0 takes a free one. `serve_forever()` runs it.

    Raises SamEdgeError for a host that is not this machine, or a port that is taken.
    """

    class Bound(_Handler):
        pass

    Bound.site = site

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A browser that closes a connection is no error worth a traceback."""

    try:
        server = Server((host, port), Bound)
    except (OSError, UnicodeError) as error:  # a name that cannot be one is a UnicodeError
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise SamEdgeError(
            f"cannot listen on {host!r:.300} port {port} ({reason}), expected an address of this machine and a port "
            "that is free and permitted. Choose another --port, or 0 for a free one; or another --host."
        ) from error
    Bound.port = int(server.server_address[1])
    Bound.hosts = frozenset(_own_names(host, Bound.port))
    Bound.any_address = host not in ("127.0.0.1", "localhost", "::1")
    return server


def _own_names(host: str, port: int) -> Iterator[str]:
    for name in ("127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host):
        yield f"{name}:{port}"
        if port == 80:
            yield name


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    site: Site
    port: int
    hosts: frozenset[str]
    any_address: bool
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "sam-edge", ""
    timeout = IDLE_S

    def do_GET(self) -> None:
        self._answer(self._get)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        self._answer(self._put)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: standard error belongs to the command."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses itself, without echoing any of the request."""
        self.close_connection = True
        self._send(HTTPStatus(code), TYPES[".json"], b'{"error": "the request cannot be understood"}\n')

    def _answer(self, route: Any) -> None:
        try:
            self._check_sender()
            status, media_type, body = route(self._path())
        except _Refused as refused:
            status, media_type, body = refused.status, JSON_TYPE, _error(str(refused))
            self.close_connection = True  # a body may not have been read
        except DataError as error:
            status, media_type, body = HTTPStatus.UNPROCESSABLE_ENTITY, JSON_TYPE, _error(str(error))
        except (SamEdgeError, OSError) as error:
            status, media_type, body = HTTPStatus.INTERNAL_SERVER_ERROR, JSON_TYPE, _error(str(error))
        self._send(status, media_type, body)

    def _send(self, status: HTTPStatus, media_type: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _check_sender(self) -> None:
        host = self.headers.get("Host", "")
        if len(self.headers.get_all("Host", [])) != 1 or not (host in self.hosts or self._is_own_address(host)):
            raise _Refused(HTTPStatus.FORBIDDEN, "this server does not answer to that Host. Use the printed address.")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            raise _Refused(HTTPStatus.FORBIDDEN, "requests of other sites are refused. Open the printed address.")
        if self.command == "PUT" and origin is None:
            raise _Refused(HTTPStatus.FORBIDDEN, "only the page itself may write: an Origin header is missing.")
        opened = self.headers.get("Sec-Fetch-Mode") == "navigate" and self.path == "/"  # a link to the page
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not opened:
            raise _Refused(HTTPStatus.FORBIDDEN, "requests of other sites are refused. Open the printed address.")

    def _is_own_address(self, host: str) -> bool:
        """Told to listen on more than loopback: any address in numbers. A name could be pointed here by anybody."""
        name, _, port = host.rpartition(":")
        if not self.any_address or port != str(self.port):
            return False
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _path(self) -> str:
        try:
            return unquote(urlsplit(self.path).path, errors="strict").removeprefix("/")
        except ValueError as error:  # bytes that are no UTF-8
            raise _Refused(HTTPStatus.BAD_REQUEST, "expected a path in UTF-8.") from error

    def _get(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        folder = self.site.folder
        if path == "site.json":
            # A saved site alone is kept by browsers. This server is on the same machine as its files, so there is no
            # network to be without; it ends with Ctrl-C, and a worker that outlived it would answer for whatever
            # another program serves on this port tomorrow.
            return HTTPStatus.OK, JSON_TYPE, self.site.settings(offline=False)
        if folder is not None and path == "api/photos":
            return HTTPStatus.OK, JSON_TYPE, json.dumps(folder.listing()).encode()
        if folder is not None and path.startswith("api/photos/"):
            data, media_type = self._of_folder(folder.read_photo, path.removeprefix("api/photos/"))
            return HTTPStatus.OK, media_type, data
        if folder is not None and path.startswith("api/annotations/"):
            found = self._of_folder(folder.read_annotation, path.removeprefix("api/annotations/"))
            return HTTPStatus.OK, JSON_TYPE, found or b"null"
        file = self.site.files.get(path or "index.html")
        if file is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such file here. Open the printed address.")
        return HTTPStatus.OK, TYPES.get(file.suffix, "application/octet-stream"), file.read_bytes()

    def _of_folder(self, read: Any, name: str) -> Any:
        try:
            return read(name)
        except DataError as error:
            raise _Refused(HTTPStatus.NOT_FOUND, str(error)) from error

    def _put(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        folder = self.site.folder
        if folder is None or not path.startswith("api/annotations/"):
            raise _Refused(HTTPStatus.NOT_FOUND, "nothing can be written there.")
        if self.headers.get_content_type() != JSON_TYPE:
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected {JSON_TYPE}.")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or self.headers.get("Transfer-Encoding"):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length.")
        if int(length) > MAX_ANNOTATION_BYTES:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {MAX_ANNOTATION_BYTES} bytes.")
        try:
            document = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, "expected JSON.") from error
        name = path.removeprefix("api/annotations/")
        if name not in folder.names():
            raise _Refused(HTTPStatus.NOT_FOUND, "that is not a photo of this folder.")
        try:
            count = folder.write_annotation(name, document)
        except OutputError as error:
            raise _Refused(HTTPStatus.CONFLICT, str(error)) from error
        return HTTPStatus.OK, JSON_TYPE, json.dumps({"objects": count}).encode()


def _error(message: str) -> bytes:
    return (json.dumps({"error": message}) + "\n").encode()
