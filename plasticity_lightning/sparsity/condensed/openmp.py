"""Torch's own worker threads, borrowed for a compiled function: they are awake while a network runs, threads of ours are not.

Waking a sleeping thread takes longer than a small product. Torch's threads are OpenMP's, and the library that runs them has
one entry, `GOMP_parallel(function, argument, threads, flags)`, which calls function(argument) in each of them.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

__all__ = ["available", "run"]


def available() -> bool:
    """Whether torch's OpenMP has the entry and can be found; on Linux it can."""
    return _entry() is not None


def run(function: int, argument: int, threads: int) -> None:
    """Call the compiled function at this address in so many threads at once, and wait for all.

    Raises:
        RuntimeError: if the library is not `available`.
    """
    entry = _entry()
    if entry is None:
        raise RuntimeError("torch's OpenMP library is not loaded or has no GOMP_parallel")
    entry(function, argument, threads, 0)


@cache
def _entry() -> ctypes._NamedFuncPointer | None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "/" in line}
    # the one inside torch's folder first, should another package have brought its own
    names = [p for p in loaded if Path(p).name.startswith(("libgomp", "libiomp5", "libomp"))]
    for path in sorted(names, key=lambda p: ("/torch" not in p, p)):
        entry = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
        if entry is not None:
            entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            entry.restype = None
            return entry
    return None
