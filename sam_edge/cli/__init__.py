"""The command line: one thin file a command, `main` in here.

Exit status: 0 done, 1 an error (one line on standard error), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from sam_edge.errors import SamEdgeError

__all__ = ["COMMANDS", "main"]

# Name to module; the command is the module's `command`. A module is imported when its command is asked for or listed,
# so each keeps heavy imports inside its function.
COMMANDS = {
    "segment": "sam_edge.cli.segment",
    "models": "sam_edge.cli.models",
    "eval": "sam_edge.cli.eval",
    "train": "sam_edge.cli.train",
    "label": "sam_edge.cli.label",
    "distill": "sam_edge.cli.distill",
    "export": "sam_edge.cli.export",
    "verify": "sam_edge.cli.verify",
    "web": "sam_edge.cli.web",
    "bench": "sam_edge.cli.bench",
    "report": "sam_edge.cli.report",
    "compare": "sam_edge.cli.compare",
    "device-kit": "sam_edge.cli.device_kit",
}

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[name]).command
        return command


def _print_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        click.echo(f"sam-edge {version('sam-edge')}")
        ctx.exit()


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: sam-edge segment photo.jpg --point 320,240 --format cutout",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def _group() -> None:
    """Segment Anything on CPUs and small devices: a model is inside, nothing is downloaded."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `sam-edge ARGUMENTS` (default: the process's own) and return the exit status."""
    try:
        status = _group.main(
            None if arguments is None else list(arguments), prog_name="sam-edge", standalone_mode=False
        )
        return status if isinstance(status, int) else 0
    except click.ClickException as error:  # a UsageError prints the usage line, too
        error.show()
        return EXIT_USAGE if isinstance(error, click.UsageError) else EXIT_ERROR
    except (KeyboardInterrupt, click.Abort):
        print("\nsam-edge: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `sam-edge models | head -1`: the reader has what it wanted
        _drop_standard_output()
        return EXIT_ERROR
    except SamEdgeError as error:
        return _fail(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _drop_standard_output()
        return _fail(f"{where}{error.strerror or error}. Check the path, its permissions and the free space.")
    except MemoryError:
        return _fail("there is not enough memory for this. Use a smaller photo, or fewer prompts at a time.")


def _fail(message: str) -> int:
    print(f"sam-edge: error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_ERROR


def _drop_standard_output() -> None:
    """Let what is still buffered go nowhere, or the interpreter would try, and fail, to write it once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
