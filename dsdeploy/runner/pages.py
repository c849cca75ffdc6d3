"""The size of a page of the latent cache, which everything that addresses the cache agrees on."""

PAGE_TOKENS = 64
