"""Server-sent events do not depend on where the network cuts them."""

from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.client.events import EventParser

LINES = st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8")), min_size=1)


@given(st.lists(LINES), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_events_come_back_whole_however_they_are_cut(events, end, data):
    written = "".join(
        f": a comment{end}event: named{end}" + "".join(f"data: {line}{end}" for line in lines) + end
        for lines in events
    ).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)))))
    pieces = [written[a:b] for a, b in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    parser = EventParser()
    found = [each for one in pieces for each in parser.feed(one)]
    assert found == ["\n".join(lines).encode() for lines in events]


def test_an_event_that_has_not_ended_is_not_given():
    parser = EventParser()
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"\n") == [b"a"]
