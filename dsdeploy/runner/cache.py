"""The latent cache: what attention keeps of each token, in pages.

A token leaves kv_lora_rank + qk_rope_head_dim values a layer (576 in DeepSeek-V3), for all heads.
"""

from __future__ import annotations

import numpy as np
import torch

from dsdeploy.runner.pages import PAGE_TOKENS


class LatentCache:
    """rows [layers, pages x PAGE_TOKENS, kv_lora_rank + qk_rope_head_dim]"""

    def __init__(
        self, layers: int, pages: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.pages = pages
        # Zeros, since the MTP layer leaves out the rows of requests that have ended; numpy's take
        # no memory until they are written.
        shape = (layers, pages * PAGE_TOKENS, width * dtype.itemsize)
        if device.type == "cpu":
            self.rows = torch.from_numpy(np.zeros(shape, np.uint8)).view(dtype)
        else:
            self.rows = torch.zeros(shape, dtype=torch.uint8, device=device).view(dtype)
