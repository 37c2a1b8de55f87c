"""The page of `hf-semicrf serve` in a real browser, by mouse and by keyboard alone."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time

import pytest
from datasets import Dataset
from tiny import ROOT, save_tiny_bert, spaced_texts
from transformers import AutoTokenizer

from hf_semicrf import SemiCRFForTokenClassification
from hf_semicrf.cli import train
from hf_semicrf.data import read_corpus
from hf_semicrf.evaluation import calibrate_recall
from hf_semicrf.integrations.tagger import load_tagger

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")

[BLOCK] = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / "serve.md").read_text(), re.M | re.S)
[SERVE, TRAIN] = [shlex.split(line) for line in BLOCK.splitlines() if line.startswith("hf-semicrf")]
WAIT = 120  # seconds
TEXT = "Yesterday Ada Lovelace saw Oslo."
ADA, OSLO = "10-22 PER", "27-31 LOC"

# what the commands do, in a process that writes down which addresses it asks
RUN = """
import sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print("asks", arguments[1][0] if event == "socket.connect" else arguments[0], flush=True)
sys.addaudithook(hook)
from hf_semicrf.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def folder(tiny_tagger, tmp_path_factory):
    """Where the page's commands run; the model promises a recall on strings, and one on words."""
    folder = tmp_path_factory.mktemp("serve")
    tagger = load_tagger(tiny_tagger, "cpu")
    rows = Dataset.from_list(spaced_texts(210))
    calibrate_recall(tagger.model, tagger.tokenizer, rows, 0.99)
    words = rows.select_columns(["tokens", "ner_tags"])
    calibrate_recall(tagger.model, tagger.tokenizer, words, 0.9)
    tagger.save_pretrained(folder / "out" / "final")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """The page's own command, running; in the end, whom it has asked."""
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, *SERVE[1:], "--port", "0", "--device", "cpu"],
            cwd=folder, stdout=file, stderr=file,
            env={k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
            | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    try:
        end = time.monotonic() + WAIT
        while not (said := re.search("^hf-semicrf serve: (http://.*)$", log.read_text(), re.M)):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield said[1]
    finally:
        process.terminate()
        process.wait(WAIT)
    assert "1 promises of recall left out, which are not of strings" in log.read_text()
    asked = {line for line in log.read_text().splitlines() if line.startswith("asks")}
    assert "asks 127.0.0.1" in asked and asked <= {"asks 127.0.0.1", "asks localhost"}, asked


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    """The page, freshly opened; it asks this machine alone and opens no dialogue."""
    context = browser.new_context()
    context.set_default_timeout(WAIT * 1000)
    sync_api.expect.set_options(timeout=WAIT * 1000)
    opened = context.new_page()
    asked, wrong = set(), []
    opened.on("request", lambda request: asked.add(request.url))
    opened.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    opened.on("pageerror", lambda error: wrong.append(error.message))
    opened.goto(address)
    opened.get_by_role("button", name="Save").wait_for()
    yield opened
    context.close()
    others = {url for url in asked if not url.startswith((address, "data:", "blob:"))}
    assert not others and not wrong, (others, wrong)


def tag(page, text):
    page.get_by_label("Text").fill(text)
    page.get_by_role("button", name="Tag").click()
    article = page.locator("article")
    sync_api.expect(article.locator("mark").first).to_be_visible()
    return article


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def choose(page, label, option):
    page.get_by_label(label).click()
    found = page.get_by_role("option", name=option)
    sync_api.expect(found).to_have_count(1)  # the list before has gone
    found.click()


def shown(page):
    """The entities: their places and types by their buttons, in order."""
    return page.locator("article").evaluate(
        """article => [...article.querySelectorAll('button[title=fix]')].map(button => {
            const span = JSON.parse(button.dataset.span);
            return `${span.start}-${span.end} ${span.label}`;
        })"""
    )


def wait_for(page, condition):
    """Wait until what is shown is as expected."""
    end = time.monotonic() + WAIT
    while not condition(found := shown(page)):
        assert time.monotonic() < end, found
        page.wait_for_timeout(50)
    return found


def expected(folder, text, **options):
    name = folder / "out" / "final"
    model = SemiCRFForTokenClassification.from_pretrained(name)
    [entities] = model.predict([text], AutoTokenizer.from_pretrained(name), **options)
    return entities


def test_a_text_is_tagged_corrected_and_saved(page, folder):
    article = tag(page, TEXT)
    found = expected(folder, TEXT, threshold=0.4)
    assert [mark.inner_text() for mark in article.locator("mark").all()] == ["Ada Lovelace", "Oslo"]
    for mark, entity in zip(article.locator("mark").all(), found, strict=True):
        label = f"{entity['label']}\N{NO-BREAK SPACE}{entity['score']:.2f}"
        assert mark.get_attribute("data-label") == label
        assert f"{entity['score']:.3f}" in mark.get_attribute("title")
    assert shown(page) == [ADA, OSLO]
    # a slider
    number = page.get_by_label(re.compile("number input for Threshold"))
    number.fill("1")
    number.blur()
    wait_for(page, lambda shown: shown == [])
    number.fill("0.4")
    number.blur()
    wait_for(page, lambda shown: shown == [ADA, OSLO])
    # forbid: the rest is decoded anew
    button(page, "forbid Ada Lovelace, PER").click()
    anew = wait_for(page, lambda shown: ADA not in shown)
    constraint = {"start": 10, "end": 22, "label": "PER", "exclude": True}
    entities = expected(folder, TEXT, threshold=0.4, constraints=[[constraint]])
    assert anew == [f"{e['start']}-{e['end']} {e['label']}" for e in entities]
    assert button(page, "forbid Ada Lovelace, PER").get_attribute("aria-pressed") == "true"
    # fix, by words: what overlaps it is gone, and it is certain
    choose(page, "From word", "4 saw")
    sync_api.expect(page.get_by_label("to word")).to_have_value("4 saw")
    choose(page, "to word", "5 Oslo")
    choose(page, "Type", "LOC")
    button(page, "Fix these words").click()
    wait_for(page, lambda shown: "23-31 LOC" in shown and OSLO not in shown)
    fixed = article.locator("mark", has_text="saw Oslo")
    assert fixed.get_attribute("data-label").endswith("1.00")
    button(page, "Save").click()
    sync_api.expect(page.locator("p[role=status]")).to_have_text(
        "Saved. Texts in corrected.jsonl: 1"
    )
    data = read_corpus(folder / "corrected.jsonl")
    at = data["tokens"][0].index("saw")
    assert data["ner_tags"][0][at : at + 2] == ["B-LOC", "I-LOC"]
    # the command that stands on the page
    given = [save_tiny_bert(folder / "bert") if x == "bert-base-cased" else x for x in TRAIN[2:]]
    given = [str(folder / x) if x in ("corrected.jsonl", "out/next") else x for x in given]
    train.main([*given, "--max_steps", "1", "--use_cpu", "--disable_tqdm", "True"])
    assert (folder / "out" / "next" / "config.json").is_file()


def tab_to(page, name):
    """Press Tab until the focus is on what has this name."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if name in page.evaluate(
            "() => { const e = document.activeElement; "
            "return [e.ariaLabel, e.labels?.[0]?.textContent, e.matches('button') && e.textContent]"
            ".join(' ') }"
        ):
            return
    raise AssertionError(f"expected {name!r} among what Tab reaches")


def test_the_keyboard_alone_does_the_same(page, folder):
    keys = page.keyboard
    tab_to(page, "Text")
    keys.type(TEXT)
    tab_to(page, "Tag")
    keys.press("Enter")
    sync_api.expect(page.locator("article mark").first).to_be_visible()
    assert shown(page) == [ADA, OSLO]
    tab_to(page, "range slider for Threshold")
    keys.press("End")
    wait_for(page, lambda shown: shown == [])
    keys.press("Home")
    wait_for(page, lambda shown: ADA in shown and OSLO in shown)
    for _ in range(40):
        keys.press("ArrowRight")
    wait_for(page, lambda shown: shown == [ADA, OSLO])
    tab_to(page, "fix Ada Lovelace, PER")
    keys.press("Enter")
    fix = button(page, "fix Ada Lovelace, PER")
    sync_api.expect(fix).to_have_attribute("aria-pressed", "true")
    tab_to(page, "forbid Oslo, LOC")
    keys.press("Space")
    wait_for(page, lambda shown: shown == [ADA])
    forbid = button(page, "forbid Oslo, LOC")
    sync_api.expect(forbid).to_be_focused()  # in its new place
    keys.press("Enter")
    wait_for(page, lambda shown: shown == [ADA, OSLO])
    tab_to(page, "From word")
    keys.press("Control+a")
    keys.type("4 saw")
    keys.press("Enter")
    sync_api.expect(page.get_by_label("to word")).to_have_value("4 saw")
    tab_to(page, "Type")
    keys.press("Control+a")
    keys.type("LOC")
    keys.press("Enter")
    tab_to(page, "Fix these words")
    keys.press("Enter")
    wait_for(page, lambda shown: "23-26 LOC" in shown)
    tab_to(page, "Save")
    keys.press("Enter")
    sync_api.expect(page.locator("p[role=status]")).to_contain_text("Saved.")
    data = read_corpus(folder / "corrected.jsonl")
    [row] = [row for row in data if row["tokens"][0] == "Yesterday"]
    assert row["ner_tags"][1:4] == ["B-PER", "I-PER", "B-LOC"]


def test_candidates_of_a_promised_recall(page):
    tag(page, TEXT)
    page.get_by_label(re.compile("number input for Threshold")).fill("1")
    wait_for(page, lambda shown: shown == [])
    sync_api.expect(page.get_by_role("radio")).to_have_count(2)  # none and that of strings
    page.get_by_role("radio", name="0.99").check()
    candidates = page.locator("li")
    sync_api.expect(candidates.filter(has_text="Ada Lovelace")).to_be_visible()
    sync_api.expect(candidates.filter(has_text="Oslo")).to_be_visible()
    forbid = button(page, "forbid Ada Lovelace, PER")
    forbid.click()
    sync_api.expect(forbid).to_have_attribute("aria-pressed", "true")
    button(page, "fix Oslo, LOC").click()
    wait_for(page, lambda shown: shown == [OSLO])
    sync_api.expect(candidates.filter(has_text="Oslo")).to_have_count(0)
    sync_api.expect(forbid).to_have_attribute("aria-pressed", "true")


def test_a_text_that_reads_to_the_left(page):
    text = "قال 😀 أمس إن Ada Lovelace saw Oslo"
    article = tag(page, text)
    assert article.evaluate("article => getComputedStyle(article).direction") == "rtl"
    wait_for(page, lambda shown: len(shown) >= 1)
    for mark in article.locator("mark").all():
        place = mark.evaluate("mark => mark.nextElementSibling.firstElementChild.dataset.span")
        start, end = re.findall(r"\d+", place)
        assert text[int(start) : int(end)] == mark.inner_text()
    assert "Oslo" in [mark.inner_text() for mark in article.locator("mark").all()]
    tag(page, TEXT)
    sync_api.expect(article).to_contain_text("Yesterday")
    assert article.evaluate("article => getComputedStyle(article).direction") == "ltr"


def test_a_script_in_a_text_is_text(page):
    text = "Ada Lovelace saw Oslo <script>alert(1)</script> <img src=x onerror=alert(2)>"
    text += " {{value}} ${alert(3)} @children &amp;"
    article = tag(page, text)
    assert (
        article.evaluate(
            """article => { const copy = article.cloneNode(true);
        copy.querySelectorAll('button').forEach(button => button.remove());
        return copy.textContent }"""
        )
        == text
    )
    assert article.locator("script, img").count() == 0
    # a message of an error is text too
    article.locator("button").first.evaluate(
        """button => { button.dataset.span =
        '{"start": 1, "end": 2, "label": "<img src=x onerror=alert(4)>"}'; button.click() }"""
    )
    sync_api.expect(page.get_by_text("of whole words")).to_be_visible()
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_off(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    tag(page, TEXT + " " + "x" * 200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
