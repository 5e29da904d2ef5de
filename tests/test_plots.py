"""Pictures: the right series in them, read from the figure's own artists; and the files."""

import itertools
import re
from functools import partial
from pathlib import Path

from common.tokenizers.classes import CharTokenizer
from results import attention, drawing, embeddings, pictures, plots, predictions
from results.store import ROOT, Point, entropy

import pytest
import torch
from lineage import load, model_of
from matplotlib.text import Text
from published import luminance, metrics, put, put_run, write
from test_models import blocks_of, large


def points(bits, seconds=10):
    return [Point(**row) for row in metrics(bits, seconds)]


# ---- Curves ----


def test_curves_are_the_mean_of_the_seeds_as_far_as_all_have_come():
    seeds = [points([2.0, 1.0, 0.5]), points([2.2, 1.2], seconds=30)]
    lines = {"v2": ("v2", seeds, [0.72, 0.74]), "deep": ("v3", [points([2.0, 0.8])], [0.8])}
    for x, wanted in (("seconds", [0, 10]), ("tokens", [0, 2]), ("steps", [0, 100])):
        (axes,) = plots.curves_figure(lines, x).axes
        assert list(axes.lines[0].get_xdata()) == wanted and len(axes.lines) == 2
    assert list(axes.lines[0].get_ydata()) == pytest.approx([2.1, 1.1])
    assert {text.get_text() for text in axes.texts} == {"v2 (2 seeds): 0.730", "deep: 0.800"}
    lines = {f"a{i}": ("v2", [points([2.0, 1.0 + i / 1000])], [1.0]) for i in range(8)}
    (axes,) = plots.curves_figure(lines).axes  # eight that differ without colour
    assert len({line.get_marker() for line in axes.lines}) == 8
    axes.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without their arrows
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert drawing.moved_apart([0.1, 0.5, 0.52], 0.1) == pytest.approx([0.1, 0.46, 0.56])


@pytest.mark.parametrize("colour", drawing.COLOURS)
def test_colours_are_seen_on_white_and_on_black_and_their_labels_can_be_read(colour):
    assert 1.05 / (luminance(colour) + 0.05) >= 3  # as WCAG 2 requires of graphics
    assert (luminance(colour) + 0.05) / (luminance("#161616") + 0.05) >= 3
    assert 1.05 / (luminance(drawing.darker(colour)) + 0.05) >= 4.5  # and of text


def test_folders_that_differ_in_the_seed_alone_are_one_line(project, monkeypatch):
    one = put_run(project / "wide-seed1", seed=1)
    two = put_run(project / "wide-seed2", bits=(2.0, 1.5), seed=2)
    put(project, "v2-sample", [1.5, 1.6], curve=metrics([2, 1.7]))
    drawn = []
    monkeypatch.setattr(plots, "draw", lambda out, slide, make, *data: drawn.append(data))
    plots.curves((one, two, put_run(project / "deep", "v3"), one, "v2-sample"))
    ((lines, _, bound),) = drawn
    found = [(Path(label).name, version, bits) for label, (version, _, bits) in lines.items()]
    own = [("wide", "v2", [1.0, 1.5]), ("deep", "v3", [1.0])]
    assert found == [*own, ("v2-sample", "v2", [1.5, 1.6])]
    last = [run[-1].val_bits_per_byte for _, runs, _ in lines.values() for run in runs]
    assert (last, bound) == ([1.0, 1.5, 1.0, 1.7, 1.7], entropy())


# ---- Pictures of results/ ----


def test_a_new_version_and_other_weights_change_the_published_pictures(project):
    write(project / "v99.py", '"""v99: an idea."""\n')
    put(project, "v4-sample", [1.5], curve=metrics([2, 1.7]))
    put(project, "v99-sample", [1.5], curve=metrics([2, 1.6]))
    assert list(plots.published_pictures()["curves.svg"][1]) == ["v4", "v99"]
    plots.published()
    assert "v99" in (project / "results" / "curves.svg").read_text(encoding="utf-8")
    assert drawing.colour("v99") not in (None, drawing.colour("v4"))
    assert pictures.model_pictures() == {}  # no weights
    prints = []
    for weights in ("weights", "other weights"):
        write(project / "results" / "models" / f"{pictures.PICTURED}.safetensors", weights)
        prints.append([drawing.fingerprint(p[1:]) for p in pictures.model_pictures().values()])
    assert [len({*each}) for each in zip(*prints, strict=True)] == [2, 2, 2]


def test_the_published_pictures_are_of_the_published_results():
    """After a change in results/: python -m results plot published."""
    for name, picture in plots.published_pictures().items():
        svg = (ROOT / "results" / name).read_text(encoding="utf-8")
        assert drawing.fingerprint(picture[1:]) in svg, f"{name} is out of date"


@pytest.mark.slow
def test_the_published_pictures_are_what_is_drawn_of_them(tmp_path, monkeypatch):
    """Every line, mark and label; what differs from one machine to the next is next to nothing."""
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(plots, "ROOT", tmp_path)
    plots.published()
    number = r"-?\d+\.\d+(?:e-\d+)?|-?\b\d+\b"
    for name in plots.published_pictures():
        shapes, numbers = [], []
        for folder in (ROOT, tmp_path):
            text = (folder / "results" / name).read_text(encoding="utf-8")
            text = re.sub(r"\b[mp][0-9a-f]{10}\b|base64,[^\"]*", "", text)  # names, grey values
            shapes.append(re.sub(number, "#", text))
            numbers.append([float(found) for found in re.findall(number, text)])
        assert shapes[0] == shapes[1] and numbers[0] == pytest.approx(numbers[1], abs=0.1), name


# ---- Attention, predictions, embeddings ----


def test_tokens_that_cannot_be_seen_or_drawn_have_labels(monkeypatch):
    tokenizer = CharTokenizer.train(["a \n$\x03"])
    ids = tokenizer.encode("a \n$\x03")
    assert drawing.token_labels(tokenizer, ids) == ["a", "␣", "↵", "$", "<03>"]
    tokenizer.vocab = [b" \xc3\xa9", b"\xe4\xbd"]
    tokenizer.decode = lambda ids: tokenizer.vocab[ids[0]].decode("utf-8", errors="replace")
    assert drawing.token_labels(tokenizer, [0, 1]) == ["␣é", "<e4bd>"]
    with drawing.style():  # characters that no font has are written as code points
        assert drawing.with_fonts(["Привет", "é"]) == ["Привет", "é"]
        monkeypatch.setattr(drawing.font_manager.fontManager, "ttflist", [])
        monkeypatch.setattr(drawing.font_manager, "findSystemFonts", lambda: [])
        assert drawing.with_fonts(["a\u4f60\u597d]", "b"]) == ["a<U+4F60 597D>]", "b"]


@pytest.mark.parametrize("version", ["v3", "v5"])
def test_recorded_attention_weights_are_those_that_the_model_uses(version):
    model, _ = model_of(load(version))
    idx = torch.randint(50, (3, 5))
    expected = large(model)(idx)
    with attention.recorded_attention(model) as recorded:
        torch.testing.assert_close(model(idx), expected)
    assert [w.shape for w in recorded] == [(3, 2, 5, 5)] * 2
    torch.testing.assert_close(recorded[0].sum(-1), torch.ones(3, 2, 5))
    assert (recorded[1].triu(1) == 0).all()
    model(idx)  # all is put back
    assert len(recorded) == 2
    for block, weights in zip(blocks_of(model), recorded, strict=True):
        block.attention.attend = lambda q, k, v, mask, weights=weights: weights @ v
    torch.testing.assert_close(model(idx), expected)


def test_attention_maps_by_layer_and_head():
    weights = [torch.rand(8, 3, 3) for _ in range(2)]
    tokens = ["One", "␣day", "."]
    figure = attention.attention_figure(weights, tokens, "v4")
    maps = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(maps) == [f"layer {i}, head {j}" for i in (1, 2) for j in range(1, 9)]
    shown = maps["layer 2, head 3"].images[0].get_array().data
    assert shown == pytest.approx(weights[1][2].numpy())
    assert {axes.images[0].get_clim() for axes in maps.values()} == {(0, 1)}  # the same grey
    assert [label.get_text() for label in maps["layer 2, head 8"].get_xticklabels()] == tokens
    figure = attention.attention_figure(weights, tokens, "v4", layer=2, head=3)
    assert [a.get_title() for a in figure.axes if a.get_title()] == ["layer 2, head 3"]


def test_induction_scores_of_known_heads():
    """A head that reads the token after the earlier occurrence, one that reads the previous."""
    n, T = 4, 8
    idx = attention.repeated_tokens(1000, n, batch=2)
    weights = torch.zeros(2, 2, T, T)
    for b in range(2):
        for t in range(T):
            seen = [s for s in range(t) if idx[b, s] == idx[b, t]]
            weights[b, 0, t, seen[0] + 1 if seen else 0] = 1
            weights[b, 1, t, max(t - 1, 0)] = 1
    assert (idx[:, :n] == idx[:, n:]).all()
    assert attention.induction_scores([weights], n).tolist() == [[1, 0]]
    assert attention.previous_scores([weights])[0, 1] == 1
    even = torch.ones(2, 1, T, T).tril() / torch.arange(1, T + 1)[:, None]
    score = sum(1 / t for t in range(n + 1, T + 1)) / n
    assert attention.induction_scores([even], n).item() == pytest.approx(score)


def test_predictions_by_hand():
    tokenizer = CharTokenizer.train(["the"])
    t, h, e = ids = tokenizer.encode("the")
    probabilities = torch.zeros(2, tokenizer.vocab_size)
    probabilities[:, ids] = torch.tensor([[0.25, 0.25, 0.5], [0.004, 0.996, 0.0]])
    rows = predictions.predictions_table(probabilities, torch.tensor([t, h]), tokenizer, 1)
    assert rows[0] == ["t", [("e", 0.5, False)], ("h", 0.25, 2)]
    assert rows[1] == ["h", [("h", pytest.approx(0.996), False)], None]


def test_the_nearest_words_are_so_by_angle_and_clusters_are_named_after_their_words():
    vectors = torch.tensor([[1.0, 0.0], [90.0, 10.0], [0.9, 0.5], [-1.0, 0.0]])
    (one, angle), (two, _) = embeddings.nearest(vectors, 0, n=2)
    assert (one, two, angle) == (1, 2, pytest.approx(90 / 8200**0.5, abs=1e-5))
    vectors = torch.cat([torch.eye(8) + 0.01 * i for i in range(3)])
    names = [f"{letter}{i}" for i in range(3) for letter in "abcdefgh"]
    kinds = embeddings.kinds_of_words(names, vectors, "notes.txt")
    assert len(set(kinds)) == 8
    assert all(name in kind for name, kind in zip(names, kinds, strict=True))


def test_every_cluster_and_every_requested_word_is_named_where_it_is_crowded():
    names = [f"word{i}" for i in range(40)]
    kinds = [f"kind {i % 5}" for i in range(40)]
    xy = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    requested = names[::5]
    figure = embeddings.embeddings_figure(xy, [0.5, 0.3], names, kinds, 0, "v4", requested)
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} >= {*kinds, *requested}
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without their lines
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


# ---- The commands ----


@pytest.mark.slow
def test_every_picture_of_a_run_is_reproducible_and_whole(finished_v3, tmp_path, capsys):
    run = str(finished_v3)
    calls = {
        "curves": partial(plots.curves, (run,)),
        "attention": partial(attention.attention, run, "the key is"),
        "induction": partial(attention.induction, run, 4),
        "predictions": partial(predictions.predictions, run, "the key is", 3),
        "embeddings": partial(embeddings.embeddings, run),
    }
    assert set(calls) < set(plots.plot)
    for name, call in calls.items():
        png, svg, again = (tmp_path / f"{name}{end}" for end in (".png", ".svg", "2.svg"))
        for out in (png, svg, again):
            call(out=str(out), slide=out == png)
            assert capsys.readouterr().out.endswith(f"{out}\n")
        assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert svg.read_bytes().startswith(b"<?xml") and svg.read_bytes() == again.read_bytes()
    assert not list(tmp_path.glob("*.tmp"))
