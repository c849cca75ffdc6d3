# ruff: noqa: N803, N806 (a tensor's name ends with its shape: x_TD)
"""DeepSeek-V3 in float64 from the paper's formulas: no cache, no absorbed form, no kernel.

It shares nothing with the runner: config.json is read as it is, weights by their Hugging Face names
through safetensors' own library. A whole prompt goes in, the logits of each of its tokens come out.

    T tokens   D hidden   W vocabulary   H heads   N width of a head without position
    R rotary width   L latent width   V width of a value   E experts
"""

import json
import math

import torch
from safetensors import safe_open

BLOCK = 128


class Oracle:
    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self._files = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = safe_open(path, "pt")
            self._files |= dict.fromkeys(file.keys(), file)

    def tensor(self, name):
        """As float64; FP8 codes times the scale of their block of 128 x 128."""
        values = self._files[name].get_tensor(name).double()
        if name + "_scale_inv" not in self._files:
            return values
        scales = self.tensor(name + "_scale_inv")
        for row in range(0, values.shape[0], BLOCK):
            for column in range(0, values.shape[1], BLOCK):
                scale = scales[row // BLOCK, column // BLOCK]
                values[row : row + BLOCK, column : column + BLOCK] *= scale
        return values

    def logits(self, tokens):
        """[T, W]"""
        return self.hidden(tokens) @ self.tensor("lm_head.weight").T

    def hidden(self, tokens):
        """[T, D], after the last norm."""
        x_TD = self.tensor("model.embed_tokens.weight")[tokens]
        for layer in range(self.config["num_hidden_layers"]):
            x_TD = self._layer(x_TD, layer)
        return self._normed(x_TD, "model.norm")

    def draft(self, tokens, hidden_TD):
        """The MTP layer's logits [T, W]: what follows `tokens`, each of which follows a token with
        this hidden state. The embedding counts as zero at the first position."""
        layer = self.config["num_hidden_layers"]
        embedded_TD = self.tensor("model.embed_tokens.weight")[tokens]
        embedded_TD[0] = 0
        pair = torch.cat(
            [
                self._normed(embedded_TD, f"model.layers.{layer}.enorm"),
                self._normed(hidden_TD, f"model.layers.{layer}.hnorm"),
            ],
            -1,
        )
        x_TD = self._layer(self._linear(pair, f"model.layers.{layer}.eh_proj"), layer)
        x_TD = self._normed(x_TD, f"model.layers.{layer}.shared_head.norm")
        return x_TD @ self.tensor("lm_head.weight").T

    def _layer(self, x_TD, layer):
        name = f"model.layers.{layer}"
        x_TD = x_TD + self._attention(self._normed(x_TD, f"{name}.input_layernorm"), name)
        normed_TD = self._normed(x_TD, f"{name}.post_attention_layernorm")
        if layer < self.config["first_k_dense_replace"]:
            return x_TD + self._feed_forward(normed_TD, f"{name}.mlp")
        return x_TD + self._mixture(normed_TD, f"{name}.mlp")

    def _linear(self, x, name):
        return x @ self.tensor(f"{name}.weight").T

    def _normed(self, x, name):
        mean_square = (x**2).mean(-1, keepdim=True)
        return (
            x / (mean_square + self.config["rms_norm_eps"]).sqrt() * self.tensor(name + ".weight")
        )

    def _feed_forward(self, x, name):
        gate, up = self._linear(x, f"{name}.gate_proj"), self._linear(x, f"{name}.up_proj")
        return self._linear(gate * gate.sigmoid() * up, f"{name}.down_proj")

    def _mixture(self, x_TD, name):
        shared = self.config["n_shared_experts"]
        y_TD = self._feed_forward(x_TD, f"{name}.shared_experts") if shared else 0 * x_TD
        scores_TE = self._linear(x_TD, f"{name}.gate").sigmoid()
        bias_E = self.tensor(f"{name}.gate.e_score_correction_bias")
        chosen = [self._chosen(scores_E, scores_E + bias_E) for scores_E in scores_TE]
        for expert in range(self.config["n_routed_experts"]):
            tokens = [token for token, weights in enumerate(chosen) if expert in weights]
            if tokens:
                weights = torch.stack([chosen[token][expert] for token in tokens])[:, None]
                out = self._feed_forward(x_TD[tokens], f"{name}.experts.{expert}")
                y_TD[tokens] += weights * out
        return y_TD

    def _chosen(self, scores_E, biased_E):
        """Expert -> weight, of the experts that a token goes to."""
        config, biased = self.config, biased_E.tolist()
        size = len(biased) // config["n_group"]
        groups = [range(first, first + size) for first in range(0, len(biased), size)]

        def strength(group):
            return sum(sorted((biased[expert] for expert in group), reverse=True)[:2])

        opened = sorted(groups, key=strength, reverse=True)[: config["topk_group"]]
        candidates = [expert for group in opened for expert in group]
        best = sorted(candidates, key=biased.__getitem__, reverse=True)
        chosen = best[: config["num_experts_per_tok"]]
        total = sum(scores_E[expert] for expert in chosen) if config["norm_topk_prob"] else 1.0
        return {e: scores_E[e] / total * config["routed_scaling_factor"] for e in chosen}

    def _attention(self, x_TD, layer):
        config, name, tokens = self.config, f"{layer}.self_attn", len(x_TD)
        heads, rotary = config["num_attention_heads"], config["qk_rope_head_dim"]
        without, latent = config["qk_nope_head_dim"], config["kv_lora_rank"]
        if config["q_lora_rank"] is None:
            q = self._linear(x_TD, f"{name}.q_proj")
        else:
            a = self._normed(self._linear(x_TD, f"{name}.q_a_proj"), f"{name}.q_a_layernorm")
            q = self._linear(a, f"{name}.q_b_proj")
        q_THN, q_THR = q.view(tokens, heads, -1).split([without, rotary], -1)
        row = self._linear(x_TD, f"{name}.kv_a_proj_with_mqa")
        c_TL, k_TR = row.split([latent, rotary], -1)
        kv = self._linear(self._normed(c_TL, f"{name}.kv_a_layernorm"), f"{name}.kv_b_proj")
        k_THN, v_THV = kv.view(tokens, heads, -1).split([without, config["v_head_dim"]], -1)
        scores_HTT = torch.einsum("thn,shn->hts", q_THN, k_THN)
        scores_HTT += torch.einsum("thr,sr->hts", self._turned(q_THR), self._turned(k_TR))
        scores_HTT *= (without + rotary) ** -0.5 * self._mscale("mscale_all_dim") ** 2
        future = torch.ones(tokens, tokens).triu(1).bool()
        shares_HTT = scores_HTT.masked_fill(future, -math.inf).softmax(-1)
        out_THV = torch.einsum("hts,shv->thv", shares_HTT, v_THV)
        return self._linear(out_THV.flatten(1), f"{name}.o_proj")

    def _turned(self, x):
        """x [T, ..., R]: each neighbouring pair is a complex number, turned by its position."""
        angles_TP = torch.outer(torch.arange(len(x)).double(), self._frequencies())
        length = self._mscale("mscale") / self._mscale("mscale_all_dim")
        turn = torch.polar(torch.full_like(angles_TP, length), angles_TP)
        turn = turn.view(len(x), *[1] * (x.dim() - 2), -1)
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turn).flatten(-2)

    def _frequencies(self):
        """Angle of a pair for each position [R / 2]. YaRN leaves a pair alone that turns more than
        `beta_fast` times in the trained context, slows one by `factor` that turns less than
        `beta_slow` times, and goes from one to the other in a straight line, pair by pair."""
        config, scaling = self.config, self.config["rope_scaling"]
        width, theta = config["qk_rope_head_dim"], config["rope_theta"]
        plain = [theta ** (-2 * pair / width) for pair in range(width // 2)]
        if not scaling:
            return torch.tensor(plain, dtype=torch.float64)

        def pair_that_turns(times):
            period = scaling["original_max_position_embeddings"] / times
            return width / 2 * math.log(period / (2 * math.pi), theta)

        first = max(math.floor(pair_that_turns(scaling["beta_fast"])), 0)
        last = min(math.ceil(pair_that_turns(scaling["beta_slow"])), width - 1)
        found = []
        for pair, frequency in enumerate(plain):
            slowed = min(max((pair - first) / max(last - first, 0.001), 0), 1)
            found.append(frequency * (1 - slowed) + frequency / scaling["factor"] * slowed)
        return torch.tensor(found, dtype=torch.float64)

    def _mscale(self, field):
        scaling = self.config["rope_scaling"]
        return 0.1 * scaling[field] * math.log(scaling["factor"]) + 1 if scaling else 1.0
