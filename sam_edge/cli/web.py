"""`sam-edge web`: the page that segments in the browser, on this machine."""

from __future__ import annotations

import json
import shutil
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sam_edge.web.server import Site

EXAMPLES = """\b
Examples:
  sam-edge web
  sam-edge web photos/
  sam-edge web --save-site public/"""


@click.command("web", epilog=EXAMPLES, short_help="Segment and label photos in the browser.")
@click.argument("directory", required=False, metavar="[DIR]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others can then reach it.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="Port to listen on; 0: a free one."
)
@click.option("--model", default="nano", show_default=True, metavar="NAME|DIR", help="An ONNX artifact's folder.")
@click.option("--no-open", is_flag=True, help="Print the address, and open no browser.")
@click.option(
    "--save-site", metavar="FOLDER", help="Write the page, its model and its examples for a static host, and end."
)
@click.option("--json", "as_json", is_flag=True, help="Print the address as JSON.")
def command(
    directory: str | None, host: str, port: int, model: str, no_open: bool, save_site: str | None, as_json: bool
) -> None:
    """Serve a page on 127.0.0.1 that cuts objects out of photos. Photos never leave the browser.

    With DIR, its photos are labelled one after the other, and each gets its SA-1B JSON written beside it.
    """
    from sam_edge.runtimes import artifact_folder
    from sam_edge.web.folder import PhotoFolder
    from sam_edge.web.server import Site, make_server, site_files

    site = Site(site_files(artifact_folder(model)), PhotoFolder(Path(directory).resolve()) if directory else None)
    if save_site is not None:
        _save(site, Path(save_site))
        click.echo(json.dumps({"folder": save_site}) if as_json else f"{save_site}: {len(site.files)} files")
        return
    server = make_server(site, host, port)
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{shown}:{server.server_address[1]}/"
    click.echo(json.dumps({"url": url}) if as_json else url)
    click.echo("Photos stay in the browser. Ctrl-C ends the server.", err=True)
    if not no_open:
        webbrowser.open(url)
    with server:
        server.serve_forever()


def _save(site: Site, folder: Path) -> None:
    from sam_edge.files import atomic_folder

    with atomic_folder(folder, "site.json") as draft:
        for name, path in site.files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, draft / name)
        (draft / "site.json").write_bytes(site.settings())
