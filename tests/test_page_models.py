"""The models in the page, in a real browser: tokens, logits and probabilities are those of the
scripts; a reader can play with them without a mouse, on a phone, in the dark, without a network."""

import copy
import re
import shutil

from bpe_tokenizer import BPETokenizer
from results import load_run, page
from results.store import ROOT
from results.web import weights

import pytest
import torch
import torch.nn.functional as F
from inputs import put
from lineage import VERSIONS, load, model_of, small
from test_models import large, sampled_from

MODELS = ROOT / "results" / "models"
PLAYABLE = [v for v in VERSIONS if (MODELS / f"{v}.safetensors").exists() and "_" not in v]
pytestmark = pytest.mark.slow
STORY = "One morning in autumn, Mira the gardener was at the castle with her fine black letter.\n"
TEXTS = [
    *("", "   ", STORY),
    "Isn't it? WE'LL see 1234567 —\tnaïve 漢字 🙂 'ſx e\u0301 \u0345a\r\n\r\n",
    "x\u0085y\x1cz\u2028 \ufeffq <|endoftext|>\n\n\n!?!?  aaaaaaaaaaaa",
]
STEPS = """([packed, ids]) => {
  const model = new Model(packed), state = newState(model);
  return ids.map((id) => Array.from(step(model, state, id)));
}"""
# Settings of which no version with published weights need have them.
OPTIONS = [
    *(("v4", {"position": each}) for each in ("alibi", "rope", "sinusoidal", "learned", "none")),
    ("v4", {"qkv_bias": True}),
    ("v5", {"norm": "rms", "mlp": "swiglu", "qk_norm": True, "n_kv_head": 1, "bias": False}),
    ("v5", {"norm": "layer", "mlp": "gelu", "qk_norm": False, "n_kv_head": 2, "bias": True}),
    ("v5", {"position": "rope", "n_kv_head": 1}),
    ("v6", {"ngram_rows": 97, "ngram_max": 3, "ngram_at": "input"}),
    ("v6", {"ngram_rows": 97, "ngram_at": "head", "ngram_gate": True}),
    ("v6", {"ngram_rows": 0}),
]


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window: the system's own, or else the one that playwright has fetched."""
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    with sync_api.sync_playwright() as playwright:
        own = next(filter(None, map(shutil.which, names)), None)
        try:
            made = playwright.chromium.launch(executable_path=own)
        except sync_api.Error as error:
            reason = str(error).splitlines()[0]
            pytest.skip(f"no browser starts: apt-get install chromium ({reason})")
        yield made
        made.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page in a file."""
    return put(tmp_path_factory.mktemp("page") / "page.html", page.render())


@pytest.fixture(scope="module")
def opened(browser, written):
    """The page in the browser; its functions can be called, and change nothing that is shown."""
    shown = browser.new_page()
    shown.goto(written.as_uri())
    yield shown
    shown.close()


def rounded(model, packed):
    """The model with the weights that the page has of it."""
    parts = {name: torch.from_numpy(part) for name, part in weights.unpack(packed).items()}
    model.load_state_dict(parts)
    return model.eval()


def assert_same_logits(shown, packed, model, ids):
    with torch.no_grad():
        wanted = model(torch.tensor(ids)[None])[0]
    found = torch.tensor(shown.evaluate(STEPS, [packed, ids]))
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-2
    return found


@pytest.fixture(scope="module")
def embedded():
    return weights.models()


# ---- what the models compute ----


@pytest.mark.browser
@pytest.mark.parametrize("version", PLAYABLE)
def test_logits_in_the_page_are_torch_s_with_the_same_rounded_weights(version, opened, embedded):
    run, packed = load_run(version, "cpu"), embedded["models"][version]
    ids = run.tokenizer.encode(3 * STORY)
    logits = assert_same_logits(opened, packed, rounded(run.model, packed), ids)
    if version not in ("v0", "v1"):  # they do depend on more than the last token
        first, *_, last = (i for i, each in enumerate(ids) if each == ids[0])
        assert (logits[first] - logits[last]).abs().max() > 1


@pytest.mark.browser
@pytest.mark.parametrize(("version", "settings"), OPTIONS)
def test_logits_are_torch_s_for_every_setting_of_a_model(version, settings, opened):
    model, config = model_of(load(version), **{"n_head": 4, **settings})
    large(model, std=0.4)
    tensors = {name: part.numpy() for name, part in model.state_dict().items()}
    packed = weights.pack(tensors, vars(config))
    ids = torch.randint(50, (config.context_length,)).tolist()
    assert_same_logits(opened, packed, rounded(model, packed), ids)


@pytest.mark.parametrize("version", PLAYABLE)
def test_rounding_costs_next_to_nothing(version, embedded):
    run, losses = load_run(version, "cpu"), []
    text = (ROOT / "data" / "input.txt").read_text(encoding="utf-8")[-30_000:]
    windows = torch.tensor(run.tokenizer.encode(text)[: 16 * 256]).view(16, 256)
    for model in (run.model, rounded(copy.deepcopy(run.model), embedded["models"][version])):
        with torch.no_grad():
            logits = model(windows[:, :-1])
        losses.append(F.cross_entropy(logits.flatten(0, -2), windows[:, 1:].flatten()).item())
    assert losses[0] == pytest.approx(losses[1], abs=0.02)  # nats per token


@pytest.mark.browser
@pytest.mark.parametrize("version", PLAYABLE)
def test_text_is_cut_into_the_same_tokens_and_put_together_again(version, opened, embedded):
    tokenizer = BPETokenizer.load(MODELS / f"{version}-tokenizer.json")
    vocabulary = embedded["vocabularies"][embedded["models"][version]["vocabulary"]]
    script = """([vocabulary, texts]) => {
      const tokenizer = new Tokenizer(vocabulary);
      const ids = texts.map((text) => tokenizer.encode(text));
      return [ids, ids.map((each) => tokenizer.decode(each)), tokenizer.endOfText];
    }"""
    ids, decoded, end = opened.evaluate(script, [vocabulary, TEXTS])
    assert ids == [tokenizer.encode(text) for text in TEXTS]
    assert decoded == TEXTS and end == tokenizer.end_of_text


@pytest.mark.browser
@pytest.mark.parametrize("temperature", [0, 0.5, 1, 2])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1), (3, 1), (0, 0.6), (5, 0.3), (500, 0.05)])
def test_temperature_top_k_and_top_p_leave_the_same_probabilities(
    temperature, top_k, top_p, opened
):
    logits = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 3
    module = load("v0")
    config = small(module, temperature=temperature, top_k=top_k, top_p=top_p)
    knobs = {"temperature": temperature, "topK": top_k, "topP": top_p}
    script = "([logits, knobs]) => Array.from(distribution(Float32Array.from(logits), knobs))"
    found = opened.evaluate(script, [logits.tolist(), knobs])
    assert found == pytest.approx(sampled_from(module, logits, config).tolist(), abs=1e-5)


@pytest.mark.browser
def test_tokens_are_sampled_as_often_as_their_probability_says(opened):
    script = """() => {
      const random = randomNumbers(1), counts = [0, 0, 0, 0];
      for (let i = 0; i < 20000; i++) counts[pick([0.5, 0, 0.3, 0.2], random)]++;
      return counts.map((count) => count / 20000);
    }"""
    assert opened.evaluate(script) == pytest.approx([0.5, 0, 0.3, 0.2], abs=0.015)


# ---- what a reader does ----

STOPS = "a, button, input, select, textarea, summary, [tabindex='0']"
REACHED = f"""() => {{
  const one = document.activeElement, box = one.closest("label") ?? one;
  const all = [...document.querySelectorAll("{STOPS}")].filter((each) => each.checkVisibility());
  const outlined = [one, box].some((each) => parseFloat(getComputedStyle(each).outlineWidth) >= 2
    && getComputedStyle(each).outlineStyle != "none");
  return [all.indexOf(one), outlined];
}}"""
SIDEWAYS = """() => [...document.querySelectorAll("body *")].filter((one) =>
  one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".scroll, .heads input"))
  .map((one) => one.outerHTML.slice(0, 200))"""


@pytest.fixture
def phone(browser, written):
    """The page on a dark phone; whatever it asks the network for or complains of is an error."""
    shown = browser.new_page(viewport={"width": 390, "height": 740}, color_scheme="dark")
    shown.trouble = []
    shown.on("request", lambda request: shown.trouble.append(request.url))
    shown.on("console", lambda message: shown.trouble.append(message.text))
    shown.on("pageerror", lambda error: shown.trouble.append(str(error)))
    shown.goto(written.as_uri())
    yield shown
    assert {*shown.trouble} == {written.as_uri()}
    shown.close()


@pytest.mark.browser
def test_on_a_dark_phone_nothing_is_wider_than_the_screen_and_all_is_reached_by_tab(phone):
    assert phone.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 22)"
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    assert phone.evaluate(SIDEWAYS) == []
    reached = []
    for _ in range(phone.locator(f":is({STOPS}):visible").count()):
        phone.keyboard.press("Tab")
        number, outlined = phone.evaluate(REACHED)
        assert outlined
        reached.append(number)
        if phone.evaluate("document.activeElement.matches('[data-curve]')"):
            break  # from here on there are only check boxes and tables
    assert reached == sorted({*reached}) and len(reached) > 20


@pytest.mark.browser
def test_two_versions_write_and_show_what_they_expect_by_the_keyboard_alone(phone):
    last = PLAYABLE[-1]
    phone.get_by_label("The text to continue").fill("Mira had the fine black letter. Mira had the")
    phone.locator("#left-version").select_option("v1")
    phone.locator("#right-version").select_option(last)
    phone.get_by_label("Top-p").focus()
    left = phone.locator("#left .tokens").inner_text()
    assert left == "Mira had the fine black letter. Mira had the"
    # Left and right, with a temperature of 0 the most likely token is certain.
    phone.get_by_label("Temperature").press("Home")
    assert phone.locator(".next li:first-child .number").all_inner_texts() == ["100.0 %"] * 2
    # What was typed in two parts, or with something that was taken back, is read as one text.
    bars = phone.locator("#right .next").inner_text()
    phone.get_by_label("The text to continue").press_sequentially(" red")
    assert phone.locator("#right .next").inner_text() != bars
    for _ in range(4):
        phone.get_by_label("The text to continue").press("Backspace")
    assert phone.locator("#right .next").inner_text() == bars
    phone.get_by_role("button", name="Write").press("Enter")
    phone.get_by_role("button", name="Write").wait_for()  # it says Stop before
    said = phone.locator("#announce").inner_text()
    assert "v1: " in said and f"{last}: " in said and "per second" in said
    assert phone.locator("#right .written").count() > 5
    # A token is chosen with the arrow keys: the bars are those after it.
    tokens = phone.get_by_role("listbox", name="Tokens on the right")
    tokens.press("Home")
    assert phone.locator("#right [aria-selected=true]").inner_text() == "M"
    before = phone.locator("#right .next").inner_text()
    tokens.press("ArrowRight")
    assert phone.locator("#right .next").inner_text() != before
    # So is a head: it says where it looks.
    tokens.press("End")
    phone.locator("#right .heads [value=mean]").focus()
    phone.keyboard.press("ArrowLeft")
    assert re.search(r"head \d of layer 1 looks at", phone.locator("#right .says").inner_text())
    chosen = phone.locator("#right .says").inner_text()
    phone.locator("#right .heads label").first.hover()
    assert "head 1 of layer 1 looks at" in phone.locator("#right .says").inner_text()
    phone.locator("#right .next").hover()
    assert phone.locator("#right .says").inner_text() == chosen
    shares = phone.evaluate("""() => [...document.querySelectorAll("#right .tokens span")]
      .map((one) => +one.style.getPropertyValue("--w"))""")
    assert sum(shares) == pytest.approx(1, abs=1e-4)


@pytest.mark.browser
def test_a_seed_is_one_text_a_chapter_sets_up_its_versions_and_curves_are_switched(phone):
    def text(seed):
        phone.get_by_label("Seed").fill(str(seed))
        for _ in range(10):
            phone.get_by_role("button", name="One token").click()
        return phone.locator("#left .tokens").inner_text()

    assert text(5) != text(6)
    assert text(6) != text(5) == text(5)
    phone.get_by_role("link", name="Run v1 and v2 on").press("Enter")
    assert phone.locator("#left-version").input_value() == "v1"
    assert phone.locator("#right-version").input_value() == "v2"
    assert phone.get_by_label("The text to continue").input_value().endswith("the fine black")
    for box in phone.locator("[data-curve]").all():
        curve = phone.locator(f"#{box.get_attribute('data-curve')} .curve")
        for on in (False, True):
            box.press("Space")
            assert box.is_checked() == curve.is_visible() == on


@pytest.mark.browser
def test_the_first_screen_shows_all_bars_and_diffs_stand_side_by_side_on_demand(browser, written):
    shown = browser.new_page(viewport={"width": 1280, "height": 720})
    shown.goto(written.as_uri())
    assert shown.evaluate("document.querySelector('header').getBoundingClientRect().bottom") <= 720
    assert shown.locator("header li a").count() >= len(VERSIONS)
    boxes = "[...document.querySelectorAll('#v1 .change')].find((one) => one.checkVisibility())"
    tops = f"[...{boxes}.children].map((one) => one.getBoundingClientRect().top)"
    over, under = shown.evaluate(tops)
    assert over < under
    shown.locator("#v1 .sides").click()
    left, right = shown.evaluate(tops)
    assert left == right
    shown.close()
