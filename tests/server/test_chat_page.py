"""The chat page in a headless Chromium, served by the project's own server.

The model behind it has random weights, so that what it says is noise: where a test needs a certain
answer, the page's `fetch` gives it one (`answer_with`).
"""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (the test extra)")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
CHROMEDRIVER = shutil.which("chromedriver")
PATIENCE_S = 60
START_S = 180


@pytest.fixture(scope="module")
def chromium():
    """A browser that logs what goes over the network."""
    if not CHROMIUM or not CHROMEDRIVER:
        pytest.skip(
            "needs Chromium and its driver (Debian: apt-get install chromium chromium-driver)"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.add_argument("--headless=new")
    options.add_argument("--window-size=1280,800")
    options.add_argument("--no-sandbox")  # Root has none.
    options.add_argument("--disable-dev-shm-usage")  # A container's is small.
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # A named driver: selenium would look for one on the network.
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def chat_server(chromium, synth, tmp_path_factory):
    """The base URL of a server with a small random model."""
    folder = tmp_path_factory.mktemp("chat")
    checkpoint = synth(folder / "tiny")
    # Nothing ends an answer but its length: one that is to be stopped must still run.
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": []}')
    program = Path(sys.executable).with_name("dsdeploy")  # .venv/bin/dsdeploy
    command = [program, "native", checkpoint, "--port", "0"]
    said = folder / "stdout"
    with said.open("wb") as output, subprocess.Popen(command, stdout=output) as server:
        try:
            end = time.monotonic() + START_S
            while not (line := re.search(r"http://127\.0\.0\.1:\d+", said.read_text())):
                assert server.poll() is None, f"the server has ended: {said.read_text()}"
                assert time.monotonic() < end, f"no address in {START_S} s: {said.read_text()}"
                time.sleep(0.1)
            yield line[0]
        finally:
            server.terminate()
            try:
                server.wait(START_S)
            except subprocess.TimeoutExpired:
                server.kill()
                raise


class Page:
    """The chat page as a person uses it."""

    def __init__(self, driver, server):
        self.driver, self.server = driver, server
        driver.get_log("performance")  # What earlier tests have left.
        driver.get_log("browser")
        driver.get(f"{server}/")
        self.wait(lambda: self.element("#send").is_enabled())

    def elements(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def element(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, condition):
        return WebDriverWait(self.driver, PATIENCE_S, 0.05).until(lambda _: condition())

    def set(self, **settings):
        for name, value in settings.items():
            field = self.element(f"#settings [name={name}]")
            field.clear()
            field.send_keys(str(value))

    def send(self, question):
        self.element("#question").send_keys(question + Keys.ENTER)

    def ask(self, question):
        """Send a question and wait for the end of its answer: its text."""
        before = len(self.elements(".answer"))
        self.send(question)
        self.wait(lambda: len(self.elements(".answer")) > before and self.idle())
        return self.answer()

    def idle(self):
        return not self.elements(".busy") and self.element("#send").is_displayed()

    def answer(self):
        return self.elements(".answer .text")[-1].get_property("textContent")

    def measures(self):
        return self.elements(".answer .measures")[-1].text

    def answer_with(self, *chunks):
        """Let the next question have a stream of these chunks for an answer, not the server's."""
        lines = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
        self.driver.execute_script(
            """
            const body = arguments[0].map((line) => `data: ${line}\\n\\n`).join("");
            const real = window.fetch;
            window.fetch = async () => { window.fetch = real; return new Response(body); };
            """,
            lines,
        )

    def requests(self):
        """What went over the network since the last call: (URL, body) of each request."""
        messages = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        sent = [
            m["params"]["request"] for m in messages if m["method"] == "Network.requestWillBeSent"
        ]
        return [(request["url"], json.loads(request.get("postData", "null"))) for request in sent]

    def completions(self):
        return [body for url, body in self.requests() if url.endswith("/v1/chat/completions")]


def says(**delta):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


@pytest.fixture
def page(chromium, chat_server):
    return Page(chromium, chat_server)


def test_an_answer_streams_and_is_measured(page):
    page.set(max_tokens=40, temperature=0)
    page.driver.execute_script(
        """
        window.lengths = new Set();
        new MutationObserver(() => {
          const text = document.querySelector(".answer .text");
          if (text) window.lengths.add(text.textContent.length);
        }).observe(document.getElementById("log"), { subtree: true, childList: true });
        """
    )
    assert page.ask("Hello")
    assert len(page.driver.execute_script("return [...window.lengths]")) > 2, "came in one piece"
    measures = page.measures()
    assert re.search(r"\d+\.\d tokens/s", measures)
    assert re.search(r"\d+\.\d+ s to first token", measures)
    assert re.search(r"\d+ tokens in\s+\d+ tokens out", measures)


def test_stop_ends_the_answer_and_keeps_its_text(page):
    page.set(temperature=0)
    page.send("Tell me a long story, slowly")
    page.wait(page.answer)
    page.element("#stop").click()
    page.wait(page.idle)
    text = page.answer()
    assert text
    assert "stopped" in page.measures()
    time.sleep(0.5)
    assert page.answer() == text
    assert not page.elements(".notice")


def test_settings_are_sent_and_empty_ones_are_not(page):
    page.set(max_tokens=8)
    page.ask("Hello")
    (body,) = page.completions()
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["messages"] == [{"role": "user", "content": "Hello"}]
    assert body["max_tokens"] == 8
    assert not {"temperature", "top_p", "seed"} & body.keys()

    page.set(temperature=0.5, top_p=0.9, max_tokens=9, seed=7, system="Be short.")
    page.element("#new").click()
    page.ask("Hello")
    (body,) = page.completions()
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["seed"]) == (
        0.5,
        0.9,
        9,
        7,
    )
    assert body["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello"},
    ]


def test_a_second_turn_sends_the_conversation_and_a_new_chat_does_not(page):
    page.answer_with(says(content="Good "), says(content="morning."), END, "[DONE]")
    assert page.ask("Hello") == "Good morning."
    page.set(max_tokens=8)
    page.ask("And then?")
    (body,) = page.completions()
    assert body["messages"] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good morning."},
        {"role": "user", "content": "And then?"},
    ]
    page.element("#new").click()
    assert not page.elements(".answer, .question")
    page.ask("Anew")
    (body,) = page.completions()
    assert body["messages"] == [{"role": "user", "content": "Anew"}]


def test_html_in_an_answer_is_shown_as_text(page):
    html = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script> <b>bold</b>'
    page.answer_with(says(reasoning_content=html), says(content=html), END, "[DONE]")
    assert page.ask(html) == html
    for place in (".question .text", ".thoughts div"):
        assert page.element(place).get_property("textContent") == html
    assert not page.elements("#log img, #log script, #log b:not(.measures b)")
    assert page.driver.execute_script("return window.hacked") is None


@pytest.mark.parametrize(
    "chunks",
    [
        [says(content="<thi"), says(content="nk>It is four.</thi"), says(content="nk>\n\nFour.")],
        [says(content="It is four.</think>"), says(content="\n\nFour.")],
        [says(reasoning_content="It is "), says(reasoning_content="four."), says(content="Four.")],
    ],
    ids=["tags", "closing tag only", "reasoning_content"],
)
def test_reasoning_is_folded_away(page, chunks):
    page.answer_with(*chunks, END, "[DONE]")
    assert page.ask("Two and two?") == "Four."
    assert page.element(".thoughts div").get_property("textContent") == "It is four."
    assert page.element(".thoughts").get_property("open") is False
    assert page.element(".thoughts summary").text.startswith("Reasoning")


def test_a_server_out_of_reach_is_told_and_can_be_tried_again(page):
    page.set(max_tokens=8)
    page.driver.set_network_conditions(offline=True, latency=0, throughput=-1)
    try:
        page.ask("Hello")
    finally:
        page.driver.delete_network_conditions()
    assert "The server cannot be reached." in page.element(".notice").text
    page.element(".retry").click()
    page.wait(lambda: page.idle() and page.answer())
    assert not page.elements(".notice")
    assert len(page.elements(".question")) == len(page.elements(".answer")) == 1


def test_what_the_server_refuses_is_told_in_its_words(page):
    page.driver.execute_script("settings.elements.max_tokens.removeAttribute('max')")
    page.set(max_tokens=1_000_000)
    page.ask("Hello")
    words, detail = page.elements(".notice p")
    assert words.text == "The server did not accept this request."
    assert "max_tokens" in detail.text
    page.set(max_tokens=8)
    page.element(".retry").click()
    page.wait(lambda: page.idle() and page.answer())
    assert not page.elements(".notice")


@pytest.mark.parametrize(
    "last", [{"error": {"message": "Out of pages."}}, END], ids=["an error", "no [DONE]"]
)
def test_an_answer_that_breaks_off_stays_and_can_be_asked_again(page, last):
    page.answer_with(says(content="Half a sen"), last)
    assert page.ask("Hello") == "Half a sen"
    assert "The answer broke off." in page.element(".notice").text
    assert page.element(".retry").is_displayed()


def test_a_key_is_asked_for_kept_in_the_tab_and_sent(page):
    page.driver.execute_script(
        """
        window.fetch = async (path, { headers }) => {
          window.authorization = headers.Authorization;
          return headers.Authorization === "Bearer secret"
            ? Response.json({ data: [{ id: "locked" }] })
            : Response.json({ error: { message: "Give a key." } }, { status: 401 });
        };
        """
    )
    page.send("Hello")
    page.wait(lambda: page.element("#key-field").is_displayed())
    assert page.element("#key-words").text == "This server wants an API key."
    page.element("#key-field").send_keys("wrong" + Keys.ENTER)
    page.wait(lambda: "does not accept" in page.element("#key-words").text)
    page.element("#key-field").send_keys("secret" + Keys.ENTER)
    page.wait(lambda: page.element("#name").text == "locked")
    assert not page.element("#key-field").is_displayed()
    stored = page.driver.execute_script(
        "const key = sessionStorage.getItem('key'); sessionStorage.clear(); return [key, localStorage.length]"
    )
    assert stored == ["secret", 0]


def test_enter_sends_and_shift_enter_makes_a_line(page):
    page.answer_with(says(content="Yes."), END, "[DONE]")
    page.element("#question").send_keys("one", Keys.SHIFT + Keys.ENTER + Keys.NULL, "two")
    assert not page.elements(".question")
    page.element("#question").send_keys(Keys.ENTER)
    assert page.element(".question .text").get_property("textContent") == "one\ntwo"


def test_a_reader_who_scrolls_up_is_left_alone(page):
    lines = "".join(f"line {i}\n" for i in range(200))
    page.answer_with(says(content=lines), END, "[DONE]")
    page.ask("Hello")
    place = "return [log.scrollTop, log.scrollHeight - log.clientHeight]"
    top, end = page.driver.execute_script(place)
    assert 0 < end - 2 <= top
    page.driver.execute_script("log.scrollTop = 100")
    page.wait(lambda: page.driver.execute_script("return follow") is False)
    page.driver.execute_script("stayAtEnd()")
    assert page.driver.execute_script(place)[0] == 100


def test_the_page_shows_the_model_and_fits_a_phone(page):
    assert page.element("#name").text
    assert page.element("#facts").text
    phone = {"width": 375, "height": 700, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        page.answer_with(says(content="word" * 300 + "\n```\n" + "code " * 100), END, "[DONE]")
        page.ask("question" * 50)
        width = "return document.documentElement.scrollWidth"
        assert page.driver.execute_script(width) == 375
        assert page.driver.execute_script("return log.scrollWidth") <= 375
        assert not page.element("#settings").is_displayed()
        page.element("#panel-button").click()
        assert page.element("#settings").is_displayed()
        assert page.driver.execute_script(width) == 375
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_no_request_leaves_the_origin(page):
    page.set(max_tokens=8)
    page.ask("Hello")
    urls = {url for url, _ in page.requests() if not url.startswith("data:")}
    paths = {"/", "/v1/models", "/facts.json", "/v1/chat/completions"}
    assert urls == {page.server + path for path in paths}
    assert not [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"]
