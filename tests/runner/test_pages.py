"""The pool of pages: none has two owners, none is lost, and a reused beginning is that beginning.

Prompts are made of few different pages, so that many begin alike.
"""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from dsdeploy.runner.pages import PAGE_TOKENS, PagePool

A, B, C = ([letter] * PAGE_TOKENS for letter in (1, 2, 3))


def holders(pool, prompt, pages=None):
    """Take what a prompt needs, as the engine does: (reused pages, all its pages) or None."""
    reused = pool.reuse(prompt)
    fresh = pool.take((pages or -(-len(prompt) // PAGE_TOKENS)) - len(reused))
    if fresh is None:
        pool.give_back(reused)
        return None
    return reused, reused + fresh


def left_behind(pool, prompt):
    """A request with this prompt comes, is computed, and goes."""
    _, pages = holders(pool, prompt)
    pool.remember(prompt, pages)
    pool.give_back(pages)
    return pages


class Requests(RuleBasedStateMachine):
    """Requests come, fill their pages, grow and go in any order, over a pool of eight pages."""

    running = Bundle("running")

    def __init__(self):
        super().__init__()
        self.pool = PagePool(8)
        self.owners = Counter()
        self.known = {}
        """The tokens from a prompt's first to a page's last -> the first page that held them, until
        somebody else took it."""

    def forget(self, pages):
        for page in pages:
            assert not self.owners[page], "a page that somebody writes has no other owner"
        self.known = {tokens: page for tokens, page in self.known.items() if page not in pages}

    def expected(self, prompt):
        found = []
        for end in range(PAGE_TOKENS, len(prompt), PAGE_TOKENS):  # the last token is left over
            if tuple(prompt[:end]) not in self.known:
                break
            found.append(self.known[tuple(prompt[:end])])
        return found

    @rule(
        target=running,
        blocks=st.lists(st.sampled_from([1, 2]), max_size=4),
        tail=st.sampled_from([0, 1, 63]),
    )
    def begin(self, blocks, tail):
        prompt = [token for block in blocks for token in [block] * PAGE_TOKENS] + [9] * tail
        prompt = prompt or [9]
        before, expected = self.pool.available, self.expected(prompt)
        found = holders(self.pool, prompt, len(prompt) // PAGE_TOKENS + 1)
        if found is None:
            assert self.pool.available == before
            return multiple()
        reused, pages = found
        assert reused == expected
        self.forget(pages[len(reused) :])
        self.owners.update(pages)
        return prompt, pages

    @rule(request=running)
    def fill(self, request):
        """Its prompt has been computed."""
        prompt, pages = request
        self.pool.remember(prompt, pages)
        for index in range(len(prompt) // PAGE_TOKENS):
            self.known.setdefault(tuple(prompt[: (index + 1) * PAGE_TOKENS]), pages[index])

    @rule(request=running)
    def grow(self, request):
        more = self.pool.take(1)
        if more is None:
            assert self.pool.available == 0
            return
        self.forget(more)
        self.owners.update(more)
        request[1].extend(more)

    @rule(request=consumes(running))
    def end(self, request):
        self.pool.give_back(request[1])
        self.owners.subtract(request[1])

    @invariant()
    def no_page_is_lost(self):
        owned = sum(count > 0 for count in self.owners.values())
        assert self.pool.used == owned
        assert self.pool.available == 8 - owned

    def teardown(self):
        everything = self.pool.take(self.pool.available)
        owned = {page for page, count in self.owners.items() if count}
        assert sorted(everything + sorted(owned)) == list(range(8))
        assert self.pool.take(1) is None


Requests.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestRequests = Requests.TestCase


def test_what_a_request_has_left_is_taken_up_by_the_next_with_its_beginning():
    pool = PagePool(8)
    first = left_behind(pool, A + B + [7])
    assert pool.reuse(A + B + [8]) == first[:2]
    assert pool.reuse(A + C + [8]) == first[:1]
    assert pool.reuse(B + A + [8]) == []


def test_the_last_token_of_a_prompt_is_never_reused():
    pool = PagePool(8)
    pages = left_behind(pool, A + B)
    assert pool.reuse(A + B) == pages[:1]
    assert pool.reuse(A + B + [7]) == pages
    assert pool.reuse(A) == []


def test_a_page_that_is_not_full_is_not_kept():
    pool = PagePool(8)
    left_behind(pool, A[:-1])
    assert pool.reuse([*A, 7]) == []


def test_the_same_page_after_another_beginning_is_another_page():
    pool = PagePool(8)
    left_behind(pool, A + B + [7])
    left_behind(pool, C + B + [7])
    assert pool.reuse(A + B + [7])[1] != pool.reuse(C + B + [7])[1]


def test_the_beginning_used_longest_ago_is_forgotten_first():
    pool = PagePool(3)
    for block in (A, B, C):
        left_behind(pool, block)
    pool.give_back(pool.reuse([*A, 7]))  # used again
    pool.give_back(pool.take(1))
    known = [block[0] for block in (A, B, C) if pool.reuse([*block, 7])]
    assert known == [1, 3]


def test_of_one_prompt_the_end_is_forgotten_first():
    pool = PagePool(3)
    pages = left_behind(pool, A + B + C)
    for left in (2, 1, 0):
        taken = pool.take(3 - left)
        found = pool.reuse(A + B + C + [7]) if left else []
        assert found == pages[:left]
        pool.give_back(found)
        pool.give_back(taken)


def test_pages_without_a_known_beginning_are_taken_first():
    pool = PagePool(3)
    (kept,) = left_behind(pool, A)
    assert kept not in pool.take(2)
    assert pool.reuse([*A, 7]) == [kept]


def test_a_shared_page_is_free_when_its_last_user_has_gone():
    pool = PagePool(2)
    left_behind(pool, A)
    first, second = pool.reuse([*A, 7]), pool.reuse([*A, 8])
    assert first == second
    pool.give_back(first)
    assert pool.available == 1
    pool.give_back(second)
    assert pool.available == 2


def test_more_than_there_is_takes_nothing():
    pool = PagePool(4)
    pool.take(2)
    assert pool.take(3) is None
    assert pool.available == 2
    assert pool.take(0) == []
