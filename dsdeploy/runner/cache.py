"""The latent cache: what attention keeps of each token, in pages.

A token leaves kv_lora_rank + qk_rope_head_dim values a layer (576 in DeepSeek-V3), for all heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dsdeploy.runner.pages import PAGE_TOKENS


class LatentCache:
    """rows [layers, pages x PAGE_TOKENS, kv_lora_rank + qk_rope_head_dim]"""

    def __init__(
        self, layers: int, pages: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.pages = pages
        self.rows = torch.empty(layers, pages * PAGE_TOKENS, width, dtype=dtype, device=device)

    def write(self, layer: int, slots_T: Tensor, values_TL: Tensor) -> None:
        self.rows[layer].index_copy_(0, slots_T, values_TL.to(self.rows.dtype))
