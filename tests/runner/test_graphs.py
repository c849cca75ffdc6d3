"""Steps laid into buffers and computed again in place, here without a card that records them: what is
computed is the same, to the last bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.runner.executor import Executor, Forward
from dsdeploy.runner.graphs import Recording, buckets, laid_out
from dsdeploy.runner.pages import PAGE_TOKENS
from dsdeploy.runner.step import Span, Step

from .asking import Bench, add, finish
from .driver import random_tokens

PROMPT = tuple(random_tokens(40).tolist())


@pytest.fixture(scope="module")
def bench(synth, tmp_path_factory):
    return Bench(synth(tmp_path_factory.mktemp("graphs") / "tiny"))


class Replays:
    """In place of graphs: computes anew, into tensors that stay, and counts."""

    def __init__(self):
        self.count, self.rows = 0, []

    def __call__(self, compute):
        kept = compute()
        self.rows.append(len(kept[0]))

        @torch.inference_mode()
        def replay():
            self.count += 1
            for place, value in zip(kept, compute(), strict=True):
                place.copy_(value)
            return kept

        return replay


@given(st.integers(1, 200), st.data())
def test_any_step_has_a_bucket_that_is_not_much_larger(most, data):
    found = buckets(most)
    assert found == sorted(set(found))
    rows = data.draw(st.integers(1, most))
    fitting = min(bucket for bucket in found if bucket >= rows)
    assert fitting <= max(2 * rows - 1, rows + 15)


def test_rows_that_are_left_are_the_first_ones_but_write_elsewhere():
    step = Step(torch.tensor([5, 6, 7]), (Span(64, 2, (3, 1), False), Span(0, 1, (2,), False)))
    whole = laid_out(step, rows=4, pages=2, spare=9).tolist()
    tokens, positions, slots, lengths = whole[:4], whole[4:8], whole[8:12], whole[12:16]
    assert tokens == [5, 6, 7, 5]
    assert positions == [64, 65, 0, 64]
    assert slots == [64, 65, 2 * PAGE_TOKENS, 9 * PAGE_TOKENS]
    assert lengths == [65, 66, 1, 65]
    assert whole[16:] == [3, 1, 3, 1, 2, 0, 3, 1]


@pytest.mark.parametrize("drafts", [0, 2])
def test_answers_are_those_of_steps_that_are_not_recorded(bench, drafts):
    """Several at once, whose number changes, with prompts between that are not replayed."""
    answers, replays = [], Replays()
    recording = Recording(rows=12, pages=64, record=replays)
    for one in (None, recording):
        engine = bench.engine(drafts=drafts, recording=one)
        asked = [
            add(engine, PROMPT[: 10 + 7 * n], temperature=0.0, max_tokens=5 + 3 * n, logprobs=1)[1]
            for n in range(4)
        ]
        finish(engine)
        answers.append([answer.all for answer in asked])
    assert answers[0] == answers[1]
    assert replays.rows == [12, 8, 4, 2, 1]
    assert replays.count > 10


def test_a_step_that_is_too_large_or_too_long_is_computed_as_it_is(bench):
    replays = Replays()
    executor = Executor(bench.model, 8, recording=Recording(rows=1, pages=1, record=replays))
    plain = Executor(bench.model, 8)
    one, long = Span(3, 1, (0,), False), Span(70, 1, (1, 2), False)
    for spans, replayed in (((one,), 1), ((one, one), 0), ((long,), 0)):
        before = replays.count
        tokens = torch.arange(len(spans)) + 5
        asked = Forward(Step(tokens, spans), torch.arange(len(spans)))
        assert (executor.run(asked)[0] == plain.run(asked)[0]).all()
        assert replays.count - before == replayed


def test_what_is_left_over_writes_no_row_of_anyone(bench):
    replays = Replays()
    executor = Executor(bench.model, 4, recording=Recording(rows=8, pages=2, record=replays))
    before = executor._cache.rows.clone()
    tokens = torch.tensor([5, 6, 7])
    executor.run(Forward(Step(tokens, (Span(0, 3, (2,), False),)), torch.arange(3)))
    changed = (executor._cache.rows != before).any(-1).any(0).nonzero().flatten().tolist()
    written = [2 * PAGE_TOKENS + n for n in range(3)]
    assert set(changed) <= {*written, 4 * PAGE_TOKENS}
    assert set(written) <= set(changed)
