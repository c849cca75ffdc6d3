"""Compilation of numeric loops, with one rule for where the result is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(parallel: bool = False) -> Callable[[Any], Any]:
    """Compiled at its first call and kept for later processes, where there is a place to keep it.
    Holds no lock of the interpreter while it runs.

    What is kept is made anew when the function's own file changes, not when one that it calls
    does: after such an edit, delete the `__pycache__` folders."""

    def decorate(function: Any) -> Any:
        try:
            return njit(nogil=True, cache=True, parallel=parallel)(function)
        except RuntimeError:  # package and home are read-only, as in a hardened container
            return njit(nogil=True, parallel=parallel)(function)

    return decorate
