"""One model over several processes: each has some of the heads, columns and experts.

Partial results are summed in float32 after attention and after the feed-forward layer; the head's
logits are gathered once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """This process among those that share a model."""

    rank: int = 0
    size: int = 1

    def sum(self, x: Tensor) -> Tensor:
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def gather(self, x_TN: Tensor) -> Tensor:
        """[T, N of each rank, one after the other]"""
        if self.size == 1:
            return x_TN
        parts = [torch.empty_like(x_TN) for _ in range(self.size)]
        dist.all_gather(parts, x_TN.contiguous())
        return torch.cat(parts, -1)

    def broadcast(self, value: object) -> None:
        """From rank 0 to the others, which `receive` it."""
        if self.size > 1:
            dist.broadcast_object_list([value])

    def receive(self) -> Any:
        box: list[Any] = [None]
        dist.broadcast_object_list(box)
        return box[0]


def join(device: torch.device) -> Group:
    """The group that torchrun has started this process in, or this process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Group()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Group(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """End the group, without which a rank may abort when its process ends."""
    if dist.is_initialized():
        dist.destroy_process_group()
