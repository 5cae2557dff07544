"""What is committed of the page: built from these sources, small, and without a trace of where it was built."""

from __future__ import annotations

import graphlib
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sam_edge.web.contract import page_contract
from sam_edge.web.server import WEBGPU_RUNTIME

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
STATIC = ROOT / "sam_edge" / "web" / "static"
OUR_SCRIPT_BYTES = 300_000
PAGE_BYTES = 25_000_000
FILE_BYTES = 12_000_000


def test_the_page_was_built_from_these_sources() -> None:
    sources = [path.relative_to(WEB).as_posix() for path in (WEB / "src").rglob("*") if path.is_file()]
    names = sorted(["build.mjs", "package-lock.json", *(name for name in sources if not name.endswith(".test.ts"))])
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0" + (WEB / name).read_bytes() + b"\0")
    built = json.loads((STATIC / "build.json").read_bytes())["sources_sha256"]
    assert built == digest.hexdigest(), "the page's sources changed after it was built: run `make web`"


def test_no_file_of_the_page_imports_itself_through_others() -> None:
    imports = {}
    for path in (WEB / "src").rglob("*.ts"):
        names = re.findall(r'from "(\.[^"]+)"', path.read_text())
        imports[path] = [(path.parent / name).resolve().with_suffix(".ts") for name in names if "json" not in name]
    assert {name for names in imports.values() for name in names} <= imports.keys()
    graphlib.TopologicalSorter(imports).prepare()  # a CycleError names the files


def test_the_page_has_pythons_contract() -> None:
    assert json.loads((WEB / "src" / "contract.json").read_bytes()) == page_contract(), (
        "run: python -m sam_edge.web.contract > web/src/contract.json && make web"
    )


def test_the_page_is_small(files: dict[str, Path]) -> None:
    ours = sum((STATIC / name).stat().st_size for name in ("main.js", "worker.js", "offline.js"))
    assert ours <= OUR_SCRIPT_BYTES
    webgpu = {name for name in files if "jspi" in name}
    loaded = {name: path.stat().st_size for name, path in files.items() if name not in webgpu}
    assert sum(loaded.values()) <= PAGE_BYTES  # nobody loads both runtimes unless the first one fails
    assert sum(path.stat().st_size for path in files.values()) <= PAGE_BYTES
    assert max(path.stat().st_size for path in files.values()) <= FILE_BYTES
    assert WEBGPU_RUNTIME in webgpu


def test_the_lock_file_names_no_registry() -> None:
    lock = (WEB / "package-lock.json").read_text()
    assert "resolved" not in lock and "http" not in re.sub(r'"(url|homepage)": "[^"]*"', "", lock)


def test_nothing_built_names_another_host() -> None:
    for path in [*STATIC.glob("*.js"), *STATIC.glob("*.html"), *STATIC.glob("*.css")]:
        hosts = set(re.findall(r"https?://([\w.-]+)", path.read_text())) - {"www.w3.org"}
        assert not hosts, f"{path.name} names {hosts}"


def test_unit_tests_of_the_page() -> None:
    if shutil.which("npm") is None or not (WEB / "node_modules").is_dir():
        pytest.skip("Node's packages are not installed: make web")
    done = subprocess.run(["npm", "test", "--silent"], cwd=WEB, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
