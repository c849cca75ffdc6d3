"""Kernels for GPUs: compiled where there is one, else in Triton's interpreter, on small shapes."""

import pytest
from torch.utils._python_dispatch import _disable_current_modes


@pytest.fixture
def kernels_launched(monkeypatch):
    """Names of kernels, one for each launch."""
    from triton.runtime.interpreter import GridExecutor
    from triton.runtime.jit import JITFunction

    names = []

    def record(kind, method, name):
        launch = getattr(kind, method)

        def launched(self, *arguments, **options):
            names.append(name(self))
            with _disable_current_modes():  # the interpreter copies memory by torch
                return launch(self, *arguments, **options)

        monkeypatch.setattr(kind, method, launched)

    record(GridExecutor, "__call__", lambda grid: grid.fn.__name__)
    record(JITFunction, "run", lambda function: function.fn.__name__)
    return names
