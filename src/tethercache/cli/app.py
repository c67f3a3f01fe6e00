"""The Typer application."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from tethercache import __version__
from tethercache.cli.bench import bench
from tethercache.cli.branch import branch, rewind
from tethercache.cli.compare import compare
from tethercache.cli.doctor import doctor
from tethercache.cli.eval import evaluate
from tethercache.cli.failures import Debug, report, report_output
from tethercache.cli.generate import generate
from tethercache.cli.models import app as models
from tethercache.cli.output import PrintableFormatter, standard_streams
from tethercache.cli.policies import policies
from tethercache.cli.reproduce import reproduce
from tethercache.cli.resume import resume
from tethercache.cli.serve import serve
from tethercache.cli.takes import takes
from tethercache.cli.trace import app as trace

app = typer.Typer(
    name="tethercache",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(generate)
app.command()(resume)
app.command()(rewind)
app.command()(branch)
app.command()(takes)
app.command()(reproduce)
app.command()(serve)
app.command("eval")(evaluate)
app.command()(compare)
app.command()(policies)
app.command()(doctor)
app.command()(bench)
app.add_typer(models, name="models")
app.add_typer(trace, name="trace")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"tethercache {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
    debug: Debug = False,
) -> None:
    """Long autoregressive video that does not drift."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status that the package's docstring lists."""
    with standard_streams() as output:
        warnings.simplefilter("ignore")
        handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
        handler.setFormatter(PrintableFormatter())
        logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
        try:
            status = app(args=arguments, standalone_mode=False)
        except Exception as error:
            status = report(error)
    if output.error is not None:
        return report_output(output.error)
    return status if isinstance(status, int) else 0
