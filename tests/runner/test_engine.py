"""The engine: what a request is answered depends on the request alone, and nothing is lost.

A request has one answer: `bench.alone` gives it. Whatever runs beside it, in whatever steps, with
whatever drafts, its tokens, text and log-probabilities are the same to the last bit.
"""

import functools
import random
import sys
import threading
import time

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from dsdeploy.runner.pages import PAGE_TOKENS
from dsdeploy.runner.request import Output, Request, Sampling
from dsdeploy.runner.sampling import choose
from dsdeploy.runner.service import EngineService
from dsdeploy.runner.step import Span, Step

from ..waiting import until
from .asking import HOT, Answer, Bench, add, finish
from .driver import random_tokens

GREEDY = {"temperature": 0.0}
PROMPT = tuple(random_tokens(40).tolist())
LONG = tuple(random_tokens(300, seed=1).tolist())


@pytest.fixture(scope="module")
def bench(synth, tmp_path_factory):
    """FP8, with an MTP layer."""
    return Bench(synth(tmp_path_factory.mktemp("engine") / "tiny"))


@pytest.fixture(scope="module")
def alone(bench):
    """`bench.alone`, which each request need be asked once."""
    return functools.cache(lambda prompt, items: bench.alone(prompt, **dict(items)))


# Manners of asking, and schedules of several who ask.

MANNERS = {
    "greedy": {"temperature": 0.0, "logprobs": 2},
    "sampled": {"temperature": 1.0, "seed": 5, "logprobs": 0},
    "filtered": {"temperature": 1.5, "seed": 6, "top_p": 0.8, "top_k": 40, "min_p": 0.01},
    "penalised": {
        "temperature": 0.0,
        "presence_penalty": 1.0,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.3,
        "logprobs": 1,
    },
    "hot": {"temperature": HOT, "seed": 7, "ignore_eos": True, "logprobs": 1},
    "hot, with a stop": {"temperature": HOT, "seed": 8, "stop": ("a", "�~"), "min_tokens": 4},
    "scored": {"temperature": HOT, "seed": 9, "prompt_logprobs": 3, "logprobs": 3},
}


@pytest.mark.parametrize("drafts", [0, 2])
@pytest.mark.parametrize("manner", MANNERS)
def test_tokens_chosen_on_the_device_are_those_chosen_on_the_host(bench, alone, manner, drafts):
    """With an answer beside them that is chosen otherwise."""
    engine = bench.engine(choose_ahead=True, drafts=drafts)
    asked = MANNERS[manner] | {"max_tokens": 24}
    _, answer = add(engine, PROMPT, **asked)
    add(engine, LONG[:30], **MANNERS["penalised"], max_tokens=10)
    finish(engine)
    assert answer.all == alone(PROMPT, tuple(asked.items())).all


@st.composite
def asked(draw):
    """A prompt, often with a beginning that others have too; and how its answer is wanted."""
    shared = draw(st.sampled_from([0, 0, 64, 100, 128]))
    own = draw(st.integers(1, 60))
    seed = draw(st.integers(0, 3))
    sampling = MANNERS[draw(st.sampled_from(sorted(MANNERS)))]
    sampling |= {"max_tokens": draw(st.sampled_from([1, 30, 90]))}
    return LONG[:shared] + tuple(random_tokens(own, seed).tolist()), tuple(sampling.items())


@settings(max_examples=25)
@given(
    requests=st.lists(st.tuples(asked(), st.sampled_from([0, 0, 2, 20])), min_size=2, max_size=6),
    step_tokens=st.sampled_from([2, 17, 64, 512]),
    max_sequences=st.integers(1, 5),
    spare_pages=st.integers(0, 2),
    drafts=st.integers(0, 3),
)
def test_a_request_is_answered_the_same_whatever_runs_beside_it(
    bench, alone, requests, step_tokens, max_sequences, spare_pages, drafts
):
    needed = max(
        -(-(len(prompt) + dict(items)["max_tokens"]) // PAGE_TOKENS)
        for (prompt, items), _ in requests
    )
    engine = bench.engine(
        needed + spare_pages, step_tokens=step_tokens, max_sequences=max_sequences, drafts=drafts
    )
    pairs = []
    for (prompt, items), later in requests:
        pairs.append((add(engine, prompt, **dict(items))[1], alone(prompt, items)))
        for _ in range(later):
            engine.step()
    finish(engine)
    for answer, expected in pairs:
        assert answer.all == expected.all
    for spans in engine.executor.steps:
        assert sum(span.count for span in spans) <= step_tokens
        assert len(spans) <= max_sequences
    counters = engine.counters
    assert counters.generated_tokens == sum(len(answer.tokens) for answer, _ in pairs)
    for what in ("preemptions", "reused_tokens", "accepted_tokens"):
        event(f"{what}: {getattr(counters, what) > 0}")


@pytest.mark.parametrize("drafts", [0, 2])
@pytest.mark.parametrize("manner", ["greedy", "hot", "scored"])
def test_whoever_loses_its_pages_begins_again_and_nobody_can_tell(bench, manner, drafts):
    """Four answers of four pages each, and six pages."""
    sampling = {**MANNERS[manner], "max_tokens": 190, "ignore_eos": True}
    engine = bench.engine(pages=6, drafts=drafts)
    prompts = [tuple(random_tokens(20 + 30 * i, seed=i).tolist()) for i in range(4)]
    answers = [add(engine, prompt, **sampling)[1] for prompt in prompts]
    finish(engine)
    assert engine.counters.preemptions > 2
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = bench.alone(prompt, **sampling)
        assert answer.all == expected.all
        assert answer.cached_tokens == 0, "its own pages, taken up again, are no other's"


def test_whoever_has_lost_its_pages_comes_before_those_who_never_had_any(bench):
    engine = bench.engine(pages=4, max_sequences=2)
    sampling = {**GREEDY, "max_tokens": 150, "ignore_eos": True}
    sequences = [add(engine, PROMPT[: 30 + i], **sampling)[0] for i in range(3)]
    while not engine.counters.preemptions:
        engine.step()
    assert list(engine.waiting) == sequences[1:]
    finish(engine)


def test_a_long_prompt_goes_in_pieces_while_others_generate(bench):
    engine = bench.engine(step_tokens=16)
    _, early = add(engine, PROMPT, **GREEDY, max_tokens=60, ignore_eos=True)
    for _ in range(5):
        engine.step()
    _, late = add(engine, LONG, **GREEDY, max_tokens=5, logprobs=0)
    finish(engine)
    mixed = [
        spans for spans in engine.executor.steps if {span.prompt for span in spans} == {True, False}
    ]
    assert len(mixed) == len(LONG) // 15, "one token of each step is the early one's"
    assert early.all == bench.alone(PROMPT, **GREEDY, max_tokens=60, ignore_eos=True).all
    assert late.all == bench.alone(LONG, **GREEDY, max_tokens=5, logprobs=0).all


def test_those_who_came_first_are_served_first(bench):
    engine = bench.engine(max_sequences=2)
    order = []
    for name in range(5):
        engine.add(
            Request(
                PROMPT,
                Sampling(max_tokens=8, temperature=0.0, ignore_eos=True),
                lambda output, name=name: order.append(name) if output.finish_reason else None,
            )
        )
    finish(engine)
    assert order == [0, 1, 2, 3, 4]


# What others have left in the cache.


@pytest.mark.parametrize("drafts", [0, 2])
def test_a_prompt_takes_up_what_another_with_its_beginning_has_left(bench, drafts):
    engine = bench.engine(drafts=drafts)
    sampling = {"temperature": HOT, "max_tokens": 20, "logprobs": 2}
    add(engine, LONG, **sampling)
    finish(engine)
    assert engine.counters.reused_tokens == 0
    for length, reused in ((300, 256), (257, 256), (256, 192), (100, 64), (64, 0)):
        before = engine.counters.prompt_tokens
        _, answer = add(engine, LONG[:length], **sampling)
        finish(engine)
        assert answer.cached_tokens == reused
        assert engine.counters.prompt_tokens == before + length - reused
        assert answer.all == bench.alone(LONG[:length], **sampling).all


def test_a_beginning_is_shared_while_its_first_owner_still_runs(bench):
    engine = bench.engine(pages=8)
    sampling = {**GREEDY, "max_tokens": 60, "ignore_eos": True, "logprobs": 0}
    _, first = add(engine, LONG[:250], **sampling)
    engine.step()
    _, second = add(engine, LONG[:200] + PROMPT, **sampling)
    engine.step()
    assert len(engine.running) == 2, "apart they would need ten pages"
    finish(engine)
    assert second.cached_tokens == 192
    assert first.all == bench.alone(LONG[:250], **sampling).all
    assert second.all == bench.alone(LONG[:200] + PROMPT, **sampling).all


def test_one_token_that_differs_ends_the_common_beginning(bench):
    engine = bench.engine()
    add(engine, LONG, **GREEDY, max_tokens=1)
    finish(engine)
    other = (*LONG[:70], (LONG[70] + 1) % bench.vocabulary, *LONG[71:])
    _, answer = add(engine, other, **GREEDY, max_tokens=9, logprobs=0)
    finish(engine)
    assert answer.cached_tokens == 64
    assert answer.all == bench.alone(other, **GREEDY, max_tokens=9, logprobs=0).all


def test_a_prompt_whose_tokens_are_scored_is_computed_whole(bench):
    engine = bench.engine(step_tokens=50)
    for _ in range(2):
        _, answer = add(engine, LONG, **GREEDY, max_tokens=2, prompt_logprobs=1)
        finish(engine)
        assert answer.cached_tokens == 0
        assert [entry.token for entry in answer.prompt_logprobs] == list(LONG[1:])
        assert answer.all == bench.alone(LONG, **GREEDY, max_tokens=2, prompt_logprobs=1).all


# Drafts of the MTP layer.

LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def babble(bench):
    """Random letters, nearly all of which the MTP layer foretells."""
    return {
        "temperature": HOT,
        "seed": 3,
        "logit_bias": bench.letters(LETTERS),
        "logprobs": 1,
        "max_tokens": 60,
    }


@pytest.fixture(scope="module")
def spoken(bench, babble):
    """What is said so, without drafts."""
    answer = bench.alone(PROMPT, **babble)
    assert len(answer.text) == len(answer.tokens) == 60
    assert set(answer.text) == set(LETTERS)
    return answer


def speak(bench, drafts, sampling, **options):
    engine = bench.engine(drafts=drafts, **options)
    _, answer = add(engine, PROMPT, **sampling)
    finish(engine)
    return engine, answer


@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_right_drafts_save_steps_and_change_nothing(bench, babble, spoken, drafts):
    engine, answer = speak(bench, drafts, babble)
    assert answer.all == spoken.all
    counters = engine.counters
    assert counters.accepted_tokens > 0.8 * counters.drafted_tokens
    assert counters.steps < 1.2 * 60 / (1 + drafts)
    assert counters.generated_tokens == 60


@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_wrong_drafts_change_nothing_either(bench, drafts):
    sampling = {**GREEDY, "max_tokens": 60, "ignore_eos": True, "logprobs": 1}
    engine, answer = speak(bench, drafts, sampling)
    assert answer.all == bench.alone(PROMPT, **sampling).all
    assert engine.counters.drafted_tokens > 50
    assert engine.counters.accepted_tokens < 0.1 * engine.counters.drafted_tokens


@pytest.mark.parametrize("step_tokens", [1, 2, 3, 512])
@pytest.mark.parametrize("drafts", [1, 3])
def test_an_accepted_draft_is_a_token_beyond_the_one_of_its_step(
    bench, babble, spoken, drafts, step_tokens
):
    """Also where a step has no room for all drafts: one that was not computed saves nothing."""
    engine, answer = speak(bench, drafts, babble, step_tokens=step_tokens)
    assert answer.all == spoken.all
    assert engine.counters.accepted_tokens == 60 - len(answer.outputs)


def drafts_of(bench, sequence):
    """What the MTP layer expects after the tokens of a sequence, each given to the model in its own
    form, but all at once and in a cache of its own."""
    known, first = sequence.tokens, sequence.prompt_length
    sampling, count = sequence.request.sampling, len(sequence.drafts)
    pages = tuple(range(-(-(len(known) + count) // PAGE_TOKENS)))
    cache = bench.model.new_cache(len(pages))
    for begin, end in ((0, first), (first, len(known) - 1)):
        if begin == end:
            continue
        span = Span(begin, end - begin, pages, prompt=begin == 0)
        hidden = bench.model.hidden(Step(torch.tensor(known[begin:end]), (span,)), cache)
        following = Step(torch.tensor(known[begin + 1 : end + 1]), (span,))
        state = bench.model.draft(following, hidden, cache)[-1:]
    drafts = []
    while True:
        logits = bench.model.logits(state)[0].numpy()
        drafts.append(choose(logits, sampling, known[:first], known[first:] + drafts))
        if len(drafts) == count:
            return drafts
        span = Span(len(known) + len(drafts) - 2, 1, pages, prompt=False)
        state = bench.model.draft(Step(torch.tensor(drafts[-1:]), (span,)), state, cache)


@pytest.mark.parametrize("manner", ["greedy", "hot"])
@pytest.mark.parametrize("drafts", [1, 3])
def test_drafts_are_what_the_mtp_layer_expects_whatever_was_accepted(bench, manner, drafts):
    """A draft that is not is no error, and would only show in the speed."""
    engine = bench.engine(drafts=drafts, step_tokens=30)
    sampling = {**MANNERS[manner], "max_tokens": 24, "ignore_eos": True}
    sequences = [add(engine, LONG[i : i + 100], **sampling)[0] for i in range(3)]
    compared = 0
    while engine.busy:
        engine.step()
        for sequence in sequences:
            if sequence.drafts:
                assert sequence.drafts == drafts_of(bench, sequence)
                compared += 1
    assert compared > 15


@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_the_last_token_may_be_any_of_the_drafts(bench, babble, spoken, drafts):
    within = 0
    for most in range(1, 15):
        _, answer = speak(bench, drafts, babble | {"max_tokens": most})
        assert answer.text == spoken.text[:most]
        assert answer.logprobs == spoken.logprobs[:most]
        assert answer.end == ("length", None)
        within += len(answer.outputs[-1].tokens) > 1
    assert within > 3, "the end fell within accepted drafts"


@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_a_stop_string_cuts_drafts_as_it_cuts_tokens(bench, babble, spoken, drafts):
    for last in range(4, 24):
        stop = spoken.text[last - 3 : last]
        at = spoken.text.find(stop)
        engine, answer = speak(bench, drafts, babble | {"stop": (stop,)})
        assert answer.text == spoken.text[:at]
        assert answer.tokens == spoken.tokens[: at + 3]
        assert answer.logprobs == spoken.logprobs[: at + 3]
        assert answer.end == ("stop", stop)
        assert engine.counters.accepted_tokens > 0


@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_a_stop_token_cuts_drafts_as_it_cuts_tokens(bench, babble, spoken, drafts):
    for token in set(spoken.tokens):
        at = spoken.tokens.index(token)
        _, answer = speak(bench, drafts, babble | {"stop_token_ids": (token,)})
        assert answer.text == spoken.text[:at]
        assert answer.tokens == spoken.tokens[: at + 1]
        assert answer.end == ("stop", token)


# Where an answer ends.


def test_a_stop_string_is_found_across_tokens_and_never_shown(bench, babble, spoken):
    for length in (1, 2, 5, 20):
        for first in range(0, 40, 7):
            stop = spoken.text[first : first + length]
            answer = bench.alone(PROMPT, **babble | {"stop": ("zz", stop)})
            at = spoken.text.find(stop)
            assert answer.text == spoken.text[:at]
            assert len(answer.tokens) == at + length, "it ends as soon as it is complete"
            assert answer.end == ("stop", stop)


def test_the_first_of_several_stop_strings_counts(bench, babble, spoken):
    early, late = spoken.text[10:14], spoken.text[12:14]
    cut = min(spoken.text.find(early), spoken.text.find(late))
    for stop in ((early, late), (late, early)):
        answer = bench.alone(PROMPT, **babble | {"stop": stop})
        assert answer.text == spoken.text[:cut]


def test_what_was_held_back_for_a_stop_string_is_shown_at_the_end(bench, babble, spoken):
    stop = spoken.text[50:60] + "!"
    answer = bench.alone(PROMPT, **babble | {"stop": (stop,)})
    assert answer.text == spoken.text
    assert answer.end == ("length", None)
    assert answer.outputs[-1].text == spoken.text[50:60], "it was held back until then"


def end_token(bench):
    (token,) = bench.tokenizer.end_tokens
    return token


def test_the_end_token_ends_an_answer_and_is_no_part_of_its_text(bench):
    end = end_token(bench)
    answer = bench.alone(PROMPT, **GREEDY, logit_bias={end: 1e6}, skip_special_tokens=False)
    assert answer.all == ("", [end], [], [], ("stop", None))


def test_ignoring_the_end_token_goes_on_to_the_last(bench):
    sampling = {**GREEDY, "logit_bias": {end_token(bench): 1e6}, "ignore_eos": True}
    answer = bench.alone(PROMPT, **sampling, max_tokens=9)
    assert answer.tokens == [end_token(bench)] * 9
    assert answer.end == ("length", None)
    assert answer.text == ""
    shown = bench.alone(PROMPT, **sampling, max_tokens=2, skip_special_tokens=False)
    assert shown.text == bench.tokenizer.decode(shown.tokens) != ""


@pytest.mark.parametrize("drafts", [0, 2])
def test_before_the_fewest_tokens_nothing_ends_an_answer(bench, drafts):
    stop = bench.tokenizer.encode("q", False)[0]
    bias = {end_token(bench): 1e6, stop: 2e6}
    for fewest in (0, 1, 7):
        sampling = {**GREEDY, "logit_bias": bias, "stop_token_ids": (stop,)}
        _, answer = speak(bench, drafts, sampling | {"min_tokens": fewest, "max_tokens": 20})
        assert len(answer.tokens) == fewest + 1
        assert answer.tokens[-1] == stop
        assert not set(answer.tokens[:-1]) & set(bias)
        assert answer.end == ("stop", stop)


def test_no_tokens_but_the_prompts_log_probabilities(bench):
    with_answer = bench.alone(LONG, **GREEDY, max_tokens=3, prompt_logprobs=2)
    engine = bench.engine(step_tokens=100)
    _, answer = add(engine, LONG, **GREEDY, max_tokens=0, prompt_logprobs=2)
    finish(engine)
    assert answer.prompt_logprobs == with_answer.prompt_logprobs
    assert (answer.text, answer.tokens, answer.end) == ("", [], ("length", None))
    assert engine.counters.generated_tokens == 0


def test_a_prompt_of_one_token_has_nothing_to_score(bench):
    answer = bench.alone((7,), **GREEDY, max_tokens=1, prompt_logprobs=5)
    assert answer.prompt_logprobs == []
    assert len(answer.tokens) == 1


# Leaving early.


STAGES = {
    "waiting": lambda sequence, engine: sequence in engine.waiting and not sequence.output,
    "in its prompt": lambda sequence, engine: 0 < sequence.cached < sequence.prompt_length,
    "generating": lambda sequence, engine: len(sequence.output) > 5 and sequence in engine.running,
    "preempted": lambda sequence, engine: sequence in engine.waiting and sequence.output,
}


@pytest.mark.parametrize("drafts", [0, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_whoever_leaves_gives_all_back_at_any_stage(bench, stage, drafts):
    """Three who stay, one who leaves, and pages for fewer."""
    engine = bench.engine(pages=6, max_sequences=3, step_tokens=40, drafts=drafts)
    sampling = {**GREEDY, "max_tokens": 90, "ignore_eos": True}
    staying = [PROMPT, PROMPT[:20] * 4, PROMPT[:5]]
    answers = [add(engine, prompt, **sampling)[1] for prompt in staying[:2]]
    sequence, left = add(engine, LONG[:130], **sampling)
    answers.append(add(engine, staying[2], **sampling)[1])
    while not STAGES[stage](sequence, engine):
        engine.step()
        assert not sequence.finished, f"never {stage}"
    sequence.cancelled = True
    before = len(left.outputs)
    engine.step()
    assert sequence.finished
    assert left.outputs[before:] == [Output(finish_reason="cancelled")]
    assert sequence not in engine.running
    assert sequence not in engine.waiting
    sequence.cancelled = True
    finish(engine)
    assert len(left.outputs) == before + 1
    for prompt, answer in zip(staying, answers, strict=True):
        assert answer.all == bench.alone(prompt, **sampling).all


@pytest.mark.parametrize("drafts", [0, 2])
def test_the_last_to_leave_leaves_nothing(bench, drafts):
    for steps in range(12):
        engine = bench.engine(step_tokens=50, drafts=drafts)
        sequence, _ = add(engine, LONG, **GREEDY, max_tokens=100, ignore_eos=True)
        for _ in range(steps):
            engine.step()
        sequence.cancelled = True
        engine.step()
        assert not engine.busy
        assert engine.pool.available == engine.pool.count


def test_leaving_after_the_end_is_harmless(bench):
    engine = bench.engine()
    sequence, answer = add(engine, PROMPT, **GREEDY, max_tokens=3)
    finish(engine)
    before = list(answer.outputs)
    sequence.cancelled = True
    engine.step()
    engine.end_all(Output(finish_reason="error", error="Too late."))
    assert answer.outputs == before
    assert engine.pool.available == engine.pool.count


def test_all_can_be_ended_at_once(bench):
    engine = bench.engine(max_sequences=2, step_tokens=60)
    answers = [add(engine, LONG, **GREEDY, max_tokens=50)[1] for _ in range(4)]
    for _ in range(7):
        engine.step()
    engine.end_all(Output(finish_reason="error", error="The end."))
    assert {answer.outputs[-1].error for answer in answers} == {"The end."}
    assert not engine.busy
    assert engine.pool.available == engine.pool.count


# The engine in a thread of its own.


@pytest.fixture
def service(bench):
    service = EngineService(bench.engine(max_sequences=8))
    yield service
    service.close()


def wanted(answer, prompt=PROMPT, **sampling):
    return Request(prompt, Sampling(**sampling), answer.outputs.append)


def test_requests_from_many_threads_are_all_answered_and_counted_down(bench, service):
    sampling = {"temperature": 0.0, "max_tokens": 3, "ignore_eos": True}
    expected = bench.alone(PROMPT, **sampling)
    answers = [[Answer() for _ in range(40)] for _ in range(4)]

    def submit(own):
        for answer in own:
            service.submit([wanted(answer, **sampling)])

    threads = [threading.Thread(target=submit, args=[own]) for own in answers]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads cut each other short as often as can be
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: not service.busy)
    finally:
        sys.setswitchinterval(interval)
    assert service.waiting == 0
    for own in answers:
        assert {repr(answer.all) for answer in own} == {repr(expected.all)}


def test_a_request_can_be_left_at_once_or_late(service):
    chance = random.Random(1)
    answers = []
    for _ in range(30):
        answer = Answer()
        leave = service.submit([wanted(answer, temperature=0.0, max_tokens=4000, ignore_eos=True)])
        time.sleep(chance.choice([0, 0, 0.01]))
        leave()
        leave()
        answers.append(answer)
    until(lambda: not service.busy)
    assert {answer.end[0] for answer in answers} == {"cancelled"}


def test_a_step_that_fails_is_told_to_all_who_ran_and_the_next_are_served(bench, service, caplog):
    """A token that the model has not fails in the embedding; the server lets none through."""
    bystander, culprit, next_one = Answer(), Answer(), Answer()
    service.submit([wanted(bystander, temperature=0.0, max_tokens=4000, ignore_eos=True)])
    until(lambda: len(bystander.outputs) > 3)
    service.submit([wanted(culprit, prompt=(bench.vocabulary,), max_tokens=1)])
    until(lambda: culprit.outputs)
    until(lambda: not service.busy)
    for answer in (bystander, culprit):
        assert answer.end[0] == "error"
        assert answer.outputs[-1].error == "The engine has failed."
    assert "a step has failed" in caplog.text
    service.submit([wanted(next_one, temperature=0.0, max_tokens=9)])
    until(lambda: not service.busy)
    assert next_one.all == bench.alone(PROMPT, temperature=0.0, max_tokens=9).all


def test_closing_tells_those_who_still_wait(bench):
    service, answer = EngineService(bench.engine()), Answer()
    service.submit([wanted(answer, temperature=0.0, max_tokens=4000, ignore_eos=True)])
    until(lambda: answer.outputs)
    service.close()
    assert answer.end[0] == "error"
    assert answer.outputs[-1].error == "The engine has ended."


def test_an_engine_whose_steps_all_fail_is_not_well_until_one_succeeds(bench, monkeypatch):
    service = EngineService(bench.engine())
    with monkeypatch.context() as patch:
        patch.setattr(service._engine.executor, "run", lambda command: 1 / 0)
        for failures in (1, 2, 3):
            answer = Answer()
            service.submit([wanted(answer, temperature=0.0, max_tokens=3)])
            until(lambda answer=answer: answer.outputs)
            assert answer.end[0] == "error"
            assert service.healthy == (failures < 3)
    answer = Answer()
    service.submit([wanted(answer, temperature=0.0, max_tokens=3)])
    until(lambda: not service.busy)
    assert service.healthy
    service.close()
    assert not service.healthy
