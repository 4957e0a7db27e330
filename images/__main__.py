"""``python -m images list | fetch NAME | initramfs -o FILE``."""

from __future__ import annotations

import sys
from pathlib import Path

import rich_click as click
from rich.console import Console
from rich.table import Table

from images import catalog, emulator, initramfs, kernel
from images.cache import cache_dir, put_file
from images.errors import ImagesError
from images.progress import terminal_report


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Kernels, emulators and initramfs images to boot."""


@main.command("list")
def list_() -> None:
    """What the catalog has."""
    table = Table("name", "from", "good for", box=None, pad_edge=False)
    book = catalog.load()
    for entry in book.kernels:
        name = f"{entry.name} (default)" if entry.default else entry.name
        table.add_row(name, f"{entry.suites[0]}: {entry.meta}", entry.good_for)
    for tool in book.emulators:
        table.add_row(tool.name, f"{tool.suites[0]}: {tool.packages[0]}", tool.good_for)
    Console().print(table)
    click.echo(f"\nkept in {cache_dir()}")


@main.command()
@click.argument("name")
@click.option("--refresh", is_flag=True, help="Ask the archive for a newer version, even within a day.")
def fetch(name: str, refresh: bool) -> None:
    """Fetch the kernel or emulator NAME and print where it is."""
    with terminal_report() as report:
        if name in [entry.name for entry in catalog.load().emulators]:
            tool = emulator(name, progress=report, refresh=refresh)
            lines = [f"{tool.name} {tool.version}", str(tool.binary), *map(str, tool.data_dirs)]
        else:
            files = kernel(name, progress=report, refresh=refresh)
            lines = [f"{files.package} {files.version}", str(files.vmlinuz), str(files.config), str(files.modules)]
    click.echo("\n".join(lines))


@main.command("initramfs")
@click.option("-o", "output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@click.option("--add", "added", multiple=True, metavar="GUEST=HOST", help="Put a file or folder of yours in.")
@click.option("--init", "init", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Another /init.")
def initramfs_(output: Path, added: tuple[str, ...], init: Path | None) -> None:
    """Build the guest's root filesystem."""
    files: dict[str, bytes | Path] = {}
    for pair in added:
        guest_path, equals, host = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is not GUEST=HOST", param_hint="--add")
        files[guest_path] = Path(host)
    root = initramfs.build(files=files, init=init.read_bytes() if init else None)
    put_file(output, root)
    click.echo(f"{output}: {len(root):,} bytes")


def run() -> None:
    """The program: errors of ours become one line and exit status 1."""
    try:
        main(prog_name="python -m images")
    except (ImagesError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    run()
