"""A token's numbers do not depend on how its sequence is cut, batched, paged or cached.

With the compiled kernels that holds for every bit: it is why an answer does not depend on what else
the server is doing. Only one choice changes bits, naive or absorbed attention, and `Span.prompt`
makes it, not the load.
"""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .driver import (
    Sequences,
    generated,
    load,
    logits_with_generated,
    prompt,
    prompt_logits,
    random_tokens,
)

LONG, SHORT = random_tokens(150, seed=1), random_tokens(40, seed=2)


@pytest.fixture(scope="module")
def exact_model(bf16):
    return load(bf16, dtype="float32")


@pytest.fixture(scope="module", params=["fp8", "bf16", "float32"])
def model(request, fp8, bf16):
    """As stored in FP8 (activations rounded, cache in BF16), as stored in BF16, and exact."""
    folder = fp8 if request.param == "fp8" else bf16
    return load(folder, dtype="float32" if request.param == "float32" else "auto")


@pytest.mark.parametrize("kernels", ["plain", "compiled"])
def test_absorbed_attention_equals_naive_attention(bf16, kernels):
    """Up to the rounding of float32, at logits of several units."""
    model = load(bf16, dtype="float32", kernels=kernels)
    naive, absorbed = prompt_logits(model, LONG), logits_with_generated(model, LONG, 1)
    assert (naive - absorbed).abs().max() < 5e-5
    assert not torch.equal(naive, absorbed), "then only one of the forms has been computed"


@pytest.mark.parametrize("kernels", ["plain", "compiled"])
def test_a_token_on_cached_ones_has_the_logits_of_computing_all_again(bf16, kernels):
    model = load(bf16, dtype="float32", kernels=kernels)
    cached = logits_with_generated(model, LONG, 60)
    for count in (60, 61, 64, 65, 128, 150):
        again = prompt_logits(model, LONG[:count])
        assert (cached[count - 1] - again[-1]).abs().max() < 5e-5, count


@pytest.fixture(scope="module")
def whole(model):
    return prompt_logits(model, LONG)


@pytest.fixture(scope="module")
def one_by_one(model):
    """60 tokens as a prompt, the others generated."""
    return logits_with_generated(model, LONG, 60)


@settings(max_examples=15)
@given(cuts=st.sets(st.integers(1, len(LONG) - 1), max_size=12))
def test_a_prompt_in_chunks_has_the_bits_of_the_whole(model, whole, cuts):
    run, bounds = Sequences(model, LONG), [0, *sorted(cuts), len(LONG)]
    chunks = [run.step(prompt(0, b - a))[0] for a, b in pairwise(bounds)]
    assert torch.equal(torch.cat(chunks), whole)


@settings(max_examples=15)
@given(cuts=st.sets(st.integers(61, len(LONG) - 1), max_size=12))
def test_generated_tokens_have_the_same_bits_several_at_once_and_one_by_one(
    model, one_by_one, cuts
):
    """So a drafted token that is accepted changes nothing."""
    run, bounds = Sequences(model, LONG), [60, *sorted(cuts), len(LONG)]
    run.step(prompt(0, 60))
    parts = [run.step(generated(0, b - a))[0] for a, b in pairwise(bounds)]
    assert torch.equal(torch.cat(parts), one_by_one[60:])


def test_sequences_in_one_step_have_the_bits_of_each_alone(model):
    """Prompts and generated tokens mixed, none of the sequences at the same position."""
    sequences = [random_tokens(count, seed=count) for count in (3, 64, 65, 100, 131)]
    run = Sequences(model, *sequences)
    run.step(*(prompt(index, count) for index, count in enumerate((1, 63, 40, 70, 130))))
    together = run.step(generated(0), prompt(1, 1), generated(2, 3), prompt(3, 30), generated(4))
    for index, (first, count, kind) in enumerate(
        [
            (1, 1, generated),
            (63, 1, prompt),
            (40, 3, generated),
            (70, 30, prompt),
            (130, 1, generated),
        ]
    ):
        alone = Sequences(model, sequences[index])
        alone.step(prompt(0, first))
        assert torch.equal(alone.step(kind(0, count))[0], together[index]), index


def test_pages_in_any_order_give_the_same_bits(model):
    def run(pages):
        run = Sequences(model, LONG, pages=[pages])
        return torch.cat([*run.step(prompt(0, 70)), *run.step(generated(0, 80))])

    assert torch.equal(run((7, 0, 4)), run((0, 1, 2)))
    assert torch.equal(run((2, 1, 0)), run((0, 1, 2)))


def test_a_shared_page_serves_every_prompt_that_begins_with_it(model):
    """Page 5 is written by one sequence, and read by another that has only its own second page."""
    beginning, end = LONG[:64], SHORT
    run = Sequences(model, LONG, torch.cat([beginning, end]), pages=[(5, 1, 2), (5, 3)])
    run.step(prompt(0, 64))
    run.past[1] = 64
    alone = prompt_logits(model, torch.cat([beginning, end]))
    assert torch.equal(run.step(prompt(1, len(end)))[0], alone[64:])


def test_a_rejected_token_leaves_no_trace(model):
    """The engine rolls back by writing the same positions again."""
    run = Sequences(model, torch.cat([SHORT[:20], LONG[:5]]))
    run.step(prompt(0, 20))
    run.step(generated(0, 5))
    run.tokens, run.past = [SHORT], [20]
    assert torch.equal(run.step(generated(0, 20))[0], logits_with_generated(model, SHORT, 20)[20:])


def test_the_mtp_layer_has_the_same_bits_in_chunks_and_in_a_batch(exact_model):
    states = Sequences(exact_model, LONG).hidden(prompt(0, 100))[0]
    following = LONG[1:101]

    def drafts(*counts):
        run, found = Sequences(exact_model, following, SHORT), []
        for count in counts:
            past = run.past[0]
            step = run.planned(prompt(0, count), prompt(1, 1))
            both = torch.cat([states[past : past + count], states[:1]])
            found.append(exact_model.draft(step, both, run.cache)[:count])
            run.past = [past + count, run.past[1] + 1]
        return torch.cat(found)

    assert torch.equal(drafts(3, 61, 1, 35), drafts(100))


def test_a_model_without_its_mtp_layer_says_so(bf16):
    model = load(bf16, mtp=False)
    run = Sequences(model, SHORT)
    with pytest.raises(RuntimeError, match="without its MTP layer"):
        model.draft(run.planned(prompt(0, 1)), torch.zeros(1, 200), run.cache)


PROMPTS = (1, 30, 64, 97)
GENERATED = (20, 9, 70, 33)


@st.composite
def schedules(draw):
    """For each of some steps, how many tokens of each sequence to compute (0: none)."""
    wanted = st.tuples(*(st.sampled_from([0, 1, 1, 2, 5, 30, 64]) for _ in PROMPTS))
    return draw(st.lists(wanted.filter(any), min_size=1, max_size=12))


@settings(max_examples=10)
@given(schedule=schedules(), order=st.permutations(range(11)))
def test_any_schedule_gives_the_bits_of_each_sequence_alone(model, schedule, order):
    sequences = [random_tokens(p + g, seed=p) for p, g in zip(PROMPTS, GENERATED, strict=True)]
    pages, taken = [], iter(order)
    for sequence in sequences:
        pages.append([next(taken) for _ in range(-(-len(sequence) // 64))])
    run = Sequences(model, *sequences, pages=pages)
    found = [[] for _ in sequences]
    for wanted in schedule:
        parts = [part for index, n in enumerate(wanted) if (part := next_part(run, index, n))]
        if parts:
            for (index, _, _), logits in zip(parts, run.step(*parts), strict=True):
                found[index].append(logits)
    for index, sequence in enumerate(sequences):
        if found[index]:
            together = torch.cat(found[index])
            first = min(PROMPTS[index], len(together))
            alone = logits_with_generated(model, sequence[: len(together)], first)
            assert torch.equal(together, alone), index


def next_part(run, index, count):
    """At most `count` tokens, none of them beyond the prompt's end if they begin before it."""
    past, first, whole = run.past[index], PROMPTS[index], len(run.tokens[index])
    if past < first:
        return prompt(index, min(count, first - past)) if count else None
    count = min(count, whole - past)
    return generated(index, count) if count else None


def test_the_number_of_threads_changes_no_bit(fp8, bf16, tmp_path):
    """Tests run with one (see tests/conftest.py); here another process has two."""
    jobs = {precision: (str(folder), {}) for precision, folder in (("fp8", fp8), ("bf16", bf16))}
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    worker = Path(__file__).with_name("rank_worker.py")
    subprocess.run(
        [sys.executable, worker, tmp_path / "jobs.json", tmp_path],
        check=True, env=os.environ | {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    found = torch.load(tmp_path / "0.pt")
    assert found["threads"] == 2
    for precision, folder in (("fp8", fp8), ("bf16", bf16)):
        ours = logits_with_generated(load(folder), random_tokens(100), 95)
        assert torch.equal(ours, found[precision])
