"""Sampling against the definitions, written out plainly in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dsdeploy.runner.logits import Wish, choose_all
from dsdeploy.runner.request import Sampling
from dsdeploy.runner.sampling import adjust, choose, logprob_of, uniform
from dsdeploy.runner.server.bodies import CompletionBody

FLAT, PEAKED = 0.3, 3.0


def random_logits(count=50, spread=2.0, seed=0):
    return np.random.default_rng(seed).normal(0, spread, count).astype(np.float32)


def distribution(logits, sampling):
    """Token -> probability: temperature, then top-k, top-p and min-p, each on what is left."""
    wide = logits.astype(np.float64)
    shares = np.exp((wide - wide.max()) / sampling.temperature)
    left = sorted(range(len(logits)), key=lambda token: (-shares[token], token))
    if sampling.top_k:
        left = left[: sampling.top_k]
    total, within = sum(shares[token] for token in left), 0.0
    nucleus = []
    for token in left:
        nucleus.append(token)
        within += shares[token]
        if within >= sampling.top_p * total:
            break
    kept = [token for token in nucleus if shares[token] >= sampling.min_p * shares[nucleus[0]]]
    total = sum(shares[token] for token in kept)
    return {token: shares[token] / total for token in kept}


FILTERS = {
    "temperature 1": {},
    "temperature 0.5": {"temperature": 0.5},
    "temperature 3": {"temperature": 3.0},
    "top-k": {"top_k": 7},
    "top-k of one": {"top_k": 1},
    "top-k of all": {"top_k": 10_000},
    "top-p": {"top_p": 0.8},
    "tiny top-p": {"top_p": 1e-9},
    "min-p": {"min_p": 0.1},
    "min-p of one": {"min_p": 1.0},
    "all together": {"temperature": 1.7, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
}


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
def test_tokens_come_as_often_as_they_should(filters):
    """Pearson's chi-square over 6,000 seeds, which are fixed: no luck is in it. Five standard
    deviations above its mean is far beyond what a right sampler shows."""
    draws, logits = 6_000, random_logits()
    expected = distribution(logits, Sampling(**filters))
    counts = dict.fromkeys(expected, 0)
    for seed in range(draws):
        counts[choose(logits, Sampling(seed=seed, **filters), (), ())] += 1  # no other token comes
    # Cells in which less than five are expected go together, as the test demands.
    rare = [token for token, share in expected.items() if share * draws < 5]
    cells = [(counts[t], expected[t] * draws) for t in expected if t not in rare]
    if rare:
        cells.append((sum(counts[t] for t in rare), sum(expected[t] for t in rare) * draws))
    chi_square = sum((seen - mean) ** 2 / mean for seen, mean in cells if mean)
    freedom = len(cells) - 1
    assert chi_square <= freedom + 5 * math.sqrt(2 * freedom)


@settings(max_examples=200)
@given(
    count=st.sampled_from([5, 264, 1023, 1024, 1025, 5000]),
    spread=st.sampled_from([0.0, 0.01, FLAT, PEAKED, 20.0]),
    seed=st.integers(0, 5),
    temperature=st.floats(0.05, 10),
    top_k=st.sampled_from([0, 1, 3, 1024, 1500]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.3, 1e-6]),
    min_p=st.sampled_from([0.0, 0.001, 0.3, 1.0]),
)
def test_the_token_is_where_the_random_number_falls(
    count, spread, seed, temperature, top_k, top_p, min_p
):
    """Also of flat distributions, whose nucleus is larger than what is sorted first."""
    logits = random_logits(count, spread, seed)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    expected = distribution(logits, sampling)
    token, place = choose(logits, sampling, (), ()), uniform(seed, 0)
    assert token in expected
    unfiltered = top_k == 0 and top_p == 1 and min_p == 0
    order = sorted(expected) if unfiltered else list(expected)
    before = sum(expected[other] for other in order[: order.index(token)])
    assert before - 1e-9 <= place <= before + expected[token] + 1e-9


def test_equal_tokens_are_kept_by_their_number():
    logits = np.zeros(2000, np.float32)
    seen = {choose(logits, Sampling(top_k=3, seed=seed), (), ()) for seed in range(60)}
    assert seen == {0, 1, 2}


def test_greedy_takes_the_likeliest_and_of_equals_the_first():
    logits = random_logits(1000)
    logits[[700, 300]] = 50.0
    assert choose(logits, Sampling(temperature=0.0, top_k=5, top_p=0.1), (), ()) == 300


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300, 5e-324])
def test_hardly_any_temperature_is_greedy(temperature):
    for seed in range(20):
        logits = random_logits(seed=seed)
        sampling = Sampling(temperature=temperature, seed=seed, top_p=0.95)
        assert choose(logits, sampling, (), ()) == logits.argmax()


def test_what_is_forbidden_is_never_chosen():
    logits = random_logits()
    logits[::2] = -np.inf
    for seed in range(500):
        assert choose(logits, Sampling(temperature=50.0, seed=seed), (), ()) % 2 == 1


# The random number.


def test_a_random_number_belongs_to_its_seed_and_position():
    """These values must never change: seeded answers would change with them."""
    assert uniform(0, 0) == 0.011546754286331562
    assert uniform(2**64 - 1, 100_000) == 0.6168164694809481
    assert (
        len({uniform(seed, position) for seed in range(100) for position in range(100)}) == 10_000
    )


def test_random_numbers_are_even_along_positions_and_along_seeds():
    along_positions = [uniform(7, position) for position in range(10_000)]
    along_seeds = [uniform(seed, 7) for seed in range(10_000)]
    for numbers in (along_positions, along_seeds):
        counts, _ = np.histogram(numbers, 20, (0, 1))
        assert ((counts - 500) ** 2 / 500).sum() < 19 + 5 * math.sqrt(38)
    assert abs(np.corrcoef(along_positions[1:], along_positions[:-1])[0, 1]) < 0.05
    assert abs(np.corrcoef(along_seeds[1:], along_seeds[:-1])[0, 1]) < 0.05


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 49), max_size=30))
def test_a_choice_depends_on_how_many_tokens_came_and_on_nothing_else(seed, output):
    logits = random_logits()
    sampling = Sampling(seed=seed)
    others = [0] * len(output)
    assert choose(logits, sampling, (1, 2), output) == choose(logits, sampling, (3,), others)


# Penalties and bias.


def adjusted(logits, sampling, prompt, output):
    """Token by token, as vLLM's and OpenAI's references say."""
    found = []
    for token, score in enumerate(logits.astype(np.float64)):
        if token in prompt or token in output:
            repetition = sampling.repetition_penalty
            score = score / repetition if score > 0 else score * repetition
        count = output.count(token)
        score -= sampling.frequency_penalty * count
        score -= sampling.presence_penalty * (count > 0)
        found.append(score + sampling.logit_bias.get(token, 0.0))
    return found


tokens = st.lists(st.integers(0, 19), max_size=30)
penalties = st.floats(-2, 2)


@given(
    prompt=tokens,
    output=tokens,
    presence=penalties,
    frequency=penalties,
    repetition=st.floats(0.1, 10),
    bias=st.dictionaries(st.integers(0, 19), st.floats(-100, 100)),
    seed=st.integers(0, 9),
)
def test_penalties_and_bias_are_those_of_the_definition(
    prompt, output, presence, frequency, repetition, bias, seed
):
    logits = random_logits(20, seed=seed)
    before = logits.copy()
    sampling = Sampling(
        presence_penalty=presence,
        frequency_penalty=frequency,
        repetition_penalty=repetition,
        logit_bias=bias,
    )
    found = adjust(logits, sampling, prompt, output)
    np.testing.assert_allclose(
        found, adjusted(logits, sampling, prompt, output), rtol=1e-5, atol=1e-4
    )
    np.testing.assert_array_equal(logits, before, "the model's own logits are wanted later")


def test_without_penalties_and_bias_scores_are_the_logits():
    logits = random_logits()
    assert adjust(logits, Sampling(), (1,), (2,)) is logits


def test_a_token_already_said_is_avoided_and_a_biased_one_forced():
    logits = np.array([3.0, 2.0, 1.0], np.float32)
    greedy = {"temperature": 0.0}
    assert choose(logits, Sampling(**greedy, presence_penalty=2.0), (), (0,)) == 1
    assert choose(logits, Sampling(**greedy, presence_penalty=2.0), (0,), ()) == 0
    assert choose(logits, Sampling(**greedy, frequency_penalty=0.4), (), (0, 0)) == 0
    assert choose(logits, Sampling(**greedy, frequency_penalty=0.4), (), (0, 0, 0)) == 1
    assert choose(logits, Sampling(**greedy, repetition_penalty=2.0), (0,), ()) == 1
    assert choose(logits, Sampling(**greedy, logit_bias={2: 100.0}), (), ()) == 2


# Log-probabilities.


@given(
    count=st.sampled_from([2, 264, 3000]),
    spread=st.sampled_from([0.0, FLAT, PEAKED, 300.0]),
    seed=st.integers(0, 5),
    top=st.sampled_from([0, 1, 5, 20, 5000]),
    data=st.data(),
)
def test_log_probabilities_are_those_of_the_definition(count, spread, seed, top, data):
    logits = random_logits(count, spread, seed)
    token = data.draw(st.integers(0, count - 1))
    wide = logits.astype(np.float64)
    expected = wide - wide.max() - math.log(math.fsum(np.exp(wide - wide.max())))
    found = logprob_of(logits, token, top)
    assert found.token == token
    assert found.logprob == pytest.approx(expected[token], abs=1e-12, rel=1e-12)
    assert found.rank == 1 + sum(expected > expected[token])
    order = sorted(range(count), key=lambda other: (-wide[other], other))[:top]
    assert [other for other, _ in found.top] == order
    assert [value for _, value in found.top] == pytest.approx(expected[order], abs=1e-12)


extremes = st.fixed_dictionaries(
    {"prompt": st.just("x")},
    optional={
        "temperature": st.floats(0, 100),
        "top_p": st.floats(0, 1, exclude_min=True),
        "top_k": st.integers(-1, 10**30),
        "min_p": st.floats(0, 1),
        "presence_penalty": penalties,
        "frequency_penalty": penalties,
        "repetition_penalty": st.floats(0, 100, exclude_min=True),
        "logit_bias": st.dictionaries(st.sampled_from(["0", "1", "1999"]), st.floats(-100, 100)),
        "seed": st.integers(-(2**63), 2**64 - 1),
    },
)


@settings(max_examples=300)
@given(body=extremes, output=tokens)
def test_nothing_that_the_server_lets_through_breaks_a_choice(body, output):
    """A choice that raised would end every request that runs."""
    try:
        accepted = CompletionBody.model_validate(body)
    except ValidationError:
        return
    logits = random_logits(2000)
    sampling = accepted.sampling({}, max_tokens=1, logprobs=None, seed=0)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert 0 <= choose(logits, sampling, (1,), output) < 2000


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-3, 0.7, 1.0, 40.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.999, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 40, 10_000]),
    min_p=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)


@given(st.lists(st.tuples(samplings, st.integers(0, 5000)), min_size=1, max_size=8), st.data())
def test_rows_chosen_at_once_are_chosen_as_each_alone(asked, data):
    """In whatever company, of whatever ties."""
    spread = data.draw(st.sampled_from([0.0, FLAT, PEAKED]))
    logits = random_logits(1100 * 4, spread, seed=len(asked)).reshape(4, 1100).round(1)
    wishes = [
        Wish(data.draw(st.integers(0, 3)), sampling, position) for sampling, position in asked
    ]
    found = choose_all(torch.from_numpy(logits), wishes).tolist()
    alone = [choose(logits[w.row], w.sampling, (), [0] * w.position) for w in wishes]
    assert found == alone
