"""The device that a user names."""

from __future__ import annotations

import os

import torch

from dsdeploy.errors import UsageError


def device_named(name: str) -> torch.device:
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            # Under torchrun each rank of a machine has the card of its number.
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(
            f"There is no device {name!r}: {reason}.", "Name cpu, cuda or cuda:N."
        ) from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
