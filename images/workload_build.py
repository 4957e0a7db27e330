"""Compiles the workload program (``workload/``): a static C program that makes a known number of known kernel calls.

The result is kept in the cache folder under a hash of the sources, the flags and the compiler's version.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections import deque
from functools import lru_cache
from importlib import resources
from pathlib import Path

from images.cache import cache_dir
from images.errors import CompileFailed, MissingProgram

__all__ = ["build"]

_CFLAGS = ("-std=gnu11", "-O2", "-g0", "-Wall", "-Wextra", "-Werror", "-static", "-pthread")
_COMPILE_LIMIT_SEC = 120


def build(compiler: str = "gcc") -> Path:
    """The compiled workload, from the cache or compiled now (about 1 s).

    :param compiler: a C compiler that understands gcc's flags.
    :raise MissingProgram: no such compiler.
    :raise CompileFailed: it refused, mostly for want of the static C library.
    """
    sources = {
        path.name: path.read_bytes()
        for path in resources.files("images").joinpath("workload").iterdir()
        if path.name.endswith((".c", ".h"))
    }
    digest = hashlib.sha256(repr((sorted(sources.items()), _CFLAGS, _version(compiler))).encode()).hexdigest()
    program = cache_dir() / "workload" / digest[:16] / "workload"
    if not program.is_file():
        _compile(compiler, sources, program)
    return program


# Asked once a process; an upgrade of the compiler in between is not seen.
@lru_cache(maxsize=4)
def _version(compiler: str) -> str:
    if shutil.which(compiler) is None:
        raise MissingProgram(compiler, "gcc libc6-dev", "to compile the workload program")
    run = subprocess.run([compiler, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    return run.stdout


# No lock: two that compile at once make the same program, and the rename puts one whole file there.
def _compile(compiler: str, sources: dict[str, bytes], program: Path) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=program.parent) as folder:
        for name, text in sources.items():
            Path(folder, name).write_bytes(text)
        units = sorted(name for name in sources if name.endswith(".c"))
        argv = [compiler, *_CFLAGS, "-o", "workload", *units]
        run = subprocess.run(
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMPILE_LIMIT_SEC,
        )
        if run.returncode != 0:
            raise CompileFailed(argv, deque(run.stdout.splitlines(), 20))
        os.replace(Path(folder, "workload"), program)
