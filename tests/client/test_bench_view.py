"""What is shown of figures: changes, and curves on a page."""

import re
from xml.etree import ElementTree

import pytest

from dsdeploy.cli.bench_view import show
from dsdeploy.client.bench.load import Concurrency
from dsdeploy.client.bench.plot import Chart, Curve, nice_ticks, render_plot
from dsdeploy.client.bench.reading import Sample
from dsdeploy.client.bench.run import Asking, Measurement
from dsdeploy.client.bench.series import Point
from dsdeploy.client.bench.statistics import NO_TARGET, summarise
from dsdeploy.client.endpoint import Endpoint
from dsdeploy.output import Output


def point(size, ttft):
    sample = Sample(0.0, texts=(ttft, ttft + 0.01), ended=1.0, output_tokens=2)
    return Point(Concurrency(size), (summarise(Measurement((sample,), 1.0, 0.0)),))


def test_a_ratio_is_the_seconds_change_against_the_first(capsys):
    both = Point(Concurrency(1), (*point(1, 0.2).summaries, *point(1, 0.3).summaries))
    askings = [Asking(Endpoint(f"http://{name}"), "m", 1) for name in "ab"]
    show(Output(), NO_TARGET, askings, [both])
    first, second, ratios = (line.split() for line in capsys.readouterr().out.splitlines()[2:])
    assert first[4:6] == ["http://a", "200"]
    assert second[4:6] == ["http://b", "300"]
    assert ratios[:5] == ["second", "to", "first", "+50.0", "%"]


def drawings(page):
    found = re.findall(r"<svg viewBox=.*?</svg>", page, re.DOTALL)
    return [ElementTree.fromstring(each) for each in found if "role=" in each]


def test_a_curve_is_drawn_to_scale():
    page = render_plot("<Title>", [point(1, 0.1), point(2, 0.2), point(4, 0.4)], ["it & co"])
    assert "&lt;Title&gt;" in page
    assert "it &amp; co" in page
    first = drawings(page)[0].find("polyline").get("points").split()
    (x1, y1), (x2, y2), (x3, y3) = ([float(c) for c in pair.split(",")] for pair in first)
    assert (x1, x2, x3) == (0, 280, 560)  # of doubling loads
    assert (240 - y1) * 4 == pytest.approx((240 - y2) * 2) == pytest.approx(240 - y3)
    assert y3 == 0  # 400 ms are the top


def test_a_page_loads_nothing_and_has_colours_for_the_night():
    page = render_plot("t", [point(1, 0.1), point(2, 0.2)], ["m at http://host:8000"])
    assert not re.findall(r"<(?:script|link|img|iframe|object)|\b(?:src|href)=|url\(|@import", page)
    by_day, by_night = re.findall(r":root \{(.*?)\}", page)
    assert set(re.findall(r"--\w+", by_day)) == set(re.findall(r"--\w+", by_night))
    rules = page.partition("body {")[2]
    assert not re.findall(r"#[0-9a-f]{3,6}\b|(?:fill|stroke|color)=", rules)


def test_a_single_load_and_one_without_answers_can_be_drawn():
    nothing = Point(Concurrency(3), (summarise(Measurement((Sample(0.0),), 1.0, 0.0)),))
    assert len(drawings(render_plot("t", [point(3, 0.1)], ["a"]))) == 3
    assert render_plot("t", [nothing], ["a"])
    assert Chart("t", (Curve("a", "first", "", ((3.0, 1.0),)),)).x(3.0) == 280


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (0, [0, 1]),
        (5, [0, 1, 2, 3, 4, 5]),
        (400, [0, 100, 200, 300, 400]),
        (0.23, [0, 0.05, 0.1, 0.15, 0.2, 0.25]),
    ],
)
def test_ticks_are_round(most, ticks):
    assert nice_ticks(most) == pytest.approx(ticks)
