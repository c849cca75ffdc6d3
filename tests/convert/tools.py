"""What several tests share: reading with safetensors' own library, and faults at system calls."""

import hashlib
import os
import threading
from contextlib import contextmanager
from itertools import count

from safetensors import safe_open

from dsdeploy.building.layout import PlannedFile

CHANGING = (
    "write", "pwrite", "fsync", "ftruncate", "unlink", "rename", "replace", "mkdir", "rmdir",
)  # fmt: skip
"""Every function of `os` through which a conversion changes the disk, opening apart."""


def stored(folder):
    """Tensor name -> torch tensor, of all files of a folder."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def tree(folder):
    """Every file of a folder, at any depth: name -> (sha256, mode)."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mode,
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def failing(at, code):
    """The `at`-th call fails."""
    numbers, one_at_a_time = count(1), threading.Lock()

    def hook(_name, call, *_arguments):
        with one_at_a_time:
            number = next(numbers)
        if number == at:
            raise OSError(code, os.strerror(code))
        return call()

    return hook


@contextmanager
def intercepted(hook, names=CHANGING):
    """`hook(name, call, *arguments)` stands in for each call of the functions of `os` named."""
    originals = {name: getattr(os, name) for name in names}

    def standing_in(name):
        return lambda *arguments, **options: hook(
            name, lambda *changed: originals[name](*(changed or arguments), **options), *arguments
        )

    try:
        for name in names:
            setattr(os, name, standing_in(name))
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


@contextmanager
def counted_fills(log):
    """A byte in the file `log` for each window that is made, in this process or its children."""
    original, write = PlannedFile.fill, os.write
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def fill(self, target, start):
        write(descriptor, b".")
        return original(self, target, start)

    PlannedFile.fill = fill
    try:
        yield
    finally:
        PlannedFile.fill = original
        os.close(descriptor)
