"""Pictures: the right series in them, read from the figure's own artists; and the files."""

import json
import math
import xml.etree.ElementTree as ElementTree

import pytest
import torch
import torch.nn.functional as F
from lineage import edit_json, finished_run, load, model_of
from test_results import put

from common import inside, plots, results
from common.cli import run_main
from common.data import load_corpus
from common.errors import UserError
from common.tokenizers import CharTokenizer, WordTokenizer, load_tokenizer_file


def metrics(bits, seconds=10):
    return [
        {"step": 100 * i, "tokens": 2_000_000 * i, "seconds": seconds * i, "val_bits_per_byte": b}
        for i, b in enumerate(bits)
    ]


def written(figure):
    """All text in the margins and the panels of a figure."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


# ---- loss curves ----


def test_curves_are_the_mean_of_the_seeds_in_a_band_from_lowest_to_highest():
    lines = {
        "v2": [metrics([2.0, 1.0, 0.5]), metrics([2.2, 1.2, 0.9], seconds=30)],
        "v3": [metrics([2.0, 0.8])],
    }
    figure = plots.curves_figure(lines, "seconds", floor=0.25)
    (axes,) = figure.axes
    first, second, floor = axes.lines
    assert list(first.get_xdata()) == [0, 20, 40]
    assert list(first.get_ydata()) == pytest.approx([2.1, 1.1, 0.7])
    assert list(second.get_ydata()) == [2.0, 0.8]
    assert list(floor.get_ydata()) == [0.25, 0.25]
    (band,) = axes.collections  # one seed has none
    corners = {(round(x), round(y, 3)) for x, y in band.get_paths()[0].vertices}
    assert corners >= {(20, 1.0), (20, 1.2), (40, 0.5), (40, 0.9)}
    assert axes.get_xlabel() == "seconds of training" and "bits per byte" in axes.get_ylabel()
    assert {"v2 (2 seeds): 0.700", "v3: 0.800", "entropy floor: 0.250"} == set(written(figure))


def test_curves_along_steps_and_tokens():
    lines = {"v2": [metrics([2.0, 1.0])]}
    assert list(plots.curves_figure(lines, "steps").axes[0].lines[0].get_xdata()) == [0, 100]
    axes = plots.curves_figure(lines, "tokens").axes[0]
    assert list(axes.lines[0].get_xdata()) == [0, 2] and "millions" in axes.get_xlabel()
    assert len(axes.lines) == 1 and not axes.collections  # no floor, no band


def test_lines_differ_without_colour():
    lines = {f"v{i}": [metrics([2.0, 1.0 + i])] for i in range(8)}
    drawn = plots.curves_figure(lines).axes[0].lines
    assert len({(str(line.get_linestyle()), line.get_marker()) for line in drawn}) == 8
    assert len({line.get_marker() for line in drawn}) == 8


def test_labels_are_moved_apart_by_as_little_as_possible():
    assert plots.moved_apart([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert plots.moved_apart([0.1, 0.5, 0.52], 0.1) == pytest.approx([0.1, 0.46, 0.56])
    assert plots.moved_apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    close = plots.moved_apart([0.1, 0.11, 0.25], 0.1)
    assert close == pytest.approx([0.153333 - 0.1, 0.153333, 0.153333 + 0.1], abs=1e-5)


def put_run(folder, version="v2", bits=(2.0, 1.0), **settings):
    folder.mkdir(parents=True)
    config = {"data": "sample", "seed": 1, "n_embd": 128, "out_dir": str(folder), **settings}
    content = json.dumps({"version": version, "config": config})
    (folder / "config.json").write_text(content, encoding="utf-8")
    lines = "".join(json.dumps(row) + "\n" for row in metrics(bits))
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    return str(folder)


def test_runs_that_differ_in_the_seed_alone_are_one_line(tmp_path):
    one = put_run(tmp_path / "wide-seed1")
    two = put_run(tmp_path / "wide-seed2", seed=2, bits=(2.0, 1.5), device="cuda")
    other = put_run(tmp_path / "narrow", n_embd=64)
    v3 = put_run(tmp_path / "deep", "v3")
    lines, data = plots.line_groups([one, two, other, v3, one])
    assert {label: len(runs) for label, runs in lines.items()} == {"wide": 2, "narrow": 1, "v3": 1}
    assert data == "sample"
    assert [run[-1]["val_bits_per_byte"] for run in lines["wide"]] == [1.0, 1.5]
    wikitext = put_run(tmp_path / "wikitext", data="wikitext-2")
    with pytest.raises(UserError, match="runs of different data don't compare"):
        plots.line_groups([one, wikitext])


def test_a_name_stands_for_all_seeds_of_a_published_run(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "ROOT", tmp_path)
    runs = tmp_path / "runs" / "published"
    for seed in (1, 2, 3):
        put_run(runs / f"v2-sample-seed{seed}", seed=seed)
    put_run(runs / "v2-sample-mean-seed1", attention="mean")
    for name in ("v2-sample-seed1", "v2-sample-seed2", "v2-sample-mean-seed1"):  # not the third
        (runs / name / "result.json").touch()
    assert [path.name for path in plots.run_folders("v2-sample")] == [
        "v2-sample-seed1", "v2-sample-seed2"]  # fmt: skip
    lines, _ = plots.line_groups(["v2-sample", "v2-sample-mean"])
    assert {label: len(runs) for label, runs in lines.items()} == {
        "v2-sample": 2, "v2-sample-mean": 1}  # fmt: skip


def test_a_published_run_s_curve_is_that_in_results(tmp_path, monkeypatch):
    """A folder of its name is drawn only where the file has no curve: it may be another run's."""
    monkeypatch.setattr(plots, "ROOT", tmp_path)
    config = {"data": "sample", "n_embd": 128, "steps": 100}
    put(tmp_path / "results", "v2-sample", [1.5, 1.6, 1.7], config=config, curve=metrics([2, 1.7]))
    put(tmp_path / "results", "v2-sample-mean", [1.5], config={**config, "attention": "mean"})
    home = tmp_path / "runs" / "published" / "v2-sample-seed2"
    put_run(home, seed=2, steps=100, bits=(2.0, 1.1))
    ninth = home.with_name("v2-sample-seed9")
    put_run(ninth, seed=9, steps=100, bits=(2, 1.1))
    (ninth / "result.json").touch()
    assert [path.name for path in plots.run_folders("v2-sample")] == [
        *(f"v2-sample-seed{seed}.json" for seed in (1, 2, 3)), "v2-sample-seed9"]  # fmt: skip
    lines, data = plots.line_groups(["v2-sample"])
    assert data == "sample" and list(lines) == ["v2"]
    assert [run[-1]["val_bits_per_byte"] for run in lines["v2"]] == [1.7, 1.7, 1.7, 1.1]
    other = put_run(tmp_path / "other", steps=50)
    assert list(plots.line_groups(["v2-sample", other])[0]) == ["v2-sample", "other"]
    for name in ("v2-sample-mean", str(tmp_path / "v2-sample")):  # no curve; a path is no name
        with pytest.raises(UserError, match="no run in .*, and none of that name"):
            plots.run_folders(name)


def test_labels_can_be_read_on_white():
    """4.5 to 1, as WCAG 2 asks for of text: a luminance of at most 0.183."""
    for colour, *_ in plots.LOOKS:
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                 for c in plots.darker(colour)]  # fmt: skip
        assert sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), parts)) <= 0.183, colour


def test_the_command_draws_the_floor_of_the_sample(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, out: figures.append(figure))
    plots.curves((put_run(tmp_path / "run"),))
    floor = load_corpus("sample").floor["validation"]
    assert f"entropy floor: {floor:.3f}" in written(figures[0])


# ---- pictures of results/ ----


def beyond(bits, shift=0.0):
    return [
        {"times": t, "context": 64 * t, "side_by_side": b + shift, "sliding": b / 2 + shift}
        for t, b in zip((1, 2, 4, 8), bits)
    ]


def test_context_has_a_panel_for_each_way_of_judging(tmp_path, monkeypatch):
    put(tmp_path / "results", "v4-sample", [1.0], extrapolation=beyond([0.5, 0.4, 0.3, 0.2]))
    path = tmp_path / "results" / "v4-sample-seed1.json"
    second = {**json.loads(path.read_text(encoding="utf-8")), "seed": 2}
    second["extrapolation"] = beyond([0.5, 0.4, 0.3, 0.2], shift=0.1)
    path.with_name("v4-sample-seed2.json").write_text(json.dumps(second), encoding="utf-8")
    put(tmp_path / "results", "v4-sample-learned", [1.0], extrapolation=beyond([0.6]))
    put(tmp_path / "results", "v4-sample-none", [1.0])  # made before there were such rows
    monkeypatch.setattr(results, "ROOT", tmp_path)
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, out: figures.append(figure))
    plots.context()
    left, right = figures[0].axes
    alibi, learned = left.lines
    assert list(alibi.get_xdata()) == [64, 128, 256, 512]
    assert list(alibi.get_ydata()) == pytest.approx([0.55, 0.45, 0.35, 0.25])
    assert list(right.lines[0].get_ydata()) == pytest.approx([0.3, 0.25, 0.2, 0.15])
    assert list(learned.get_xdata()) == [64] and list(learned.get_ydata()) == [0.6]
    assert len(left.collections) == len(right.collections) == 1  # the band of two seeds
    assert left.get_xscale() == "log" and "side by side" in left.get_title()
    assert [t.get_text() for t in left.get_xticklabels()][:2] == ["64\n1×", "128\n2×"]
    labels = set(written(figures[0]))
    assert labels > {"ALiBi (2 seeds): 0.250", "learned: 0.600", "learned: 0.300"}


def test_one_that_breaks_down_far_out_does_not_flatten_the_others():
    rows = {"a": [beyond([0.25, 0.25, 0.25, 0.25])]}
    assert plots.context_figure(rows).axes[0].get_yscale() == "linear"
    rows["b"] = [beyond([0.25, 1.0, 2.0, 4.0])]
    axes = plots.context_figure(rows).axes[0]
    assert axes.get_yscale() == "log" and "logarithmic" in axes.get_ylabel()
    assert axes.get_ylim()[0] < 0.125 and axes.get_ylim()[1] > 4


@pytest.mark.parametrize("corpus", ["sample", "wikitext-2"])
def test_vocabulary_goes_along_the_size_that_was_reached(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "ROOT", tmp_path)
    with pytest.raises(UserError, match="no run with another vocabulary"):
        plots.vocabulary()
    for asked, has, bits in ((512, 512, [0.9, 0.92]), (2048, 1793, [0.7, 0.74])):
        name = f"v1-{corpus}-vocab-{asked}"
        put(tmp_path / "results", name, bits, tokenizer={"vocab_size": has})
    put(tmp_path / "results", f"v1-{corpus}", [9.0])
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, out: figures.append(figure))
    plots.vocabulary()
    (line,) = figures[0].axes[0].lines
    assert line.get_label() == f"v1 on {corpus} (2 seeds)"
    assert list(line.get_xdata()) == [512, 1793]
    assert list(line.get_ydata()) == pytest.approx([0.91, 0.72])


# ---- inside a model ----


@pytest.mark.parametrize("version, changes, layers", [
    ("v2", {}, 1), ("v2", {"attention": "mean"}, 1), ("v3", {"n_layer": 3}, 3),
    ("v4", {"position": "alibi"}, 2), ("v4", {"position": "rope"}, 2)])  # fmt: skip
def test_attention_weights_are_those_the_model_uses(version, changes, layers):
    model, _ = model_of(load(version), **changes)
    model.train()
    idx = torch.randint(50, (1, 11))
    real = F.scaled_dot_product_attention
    with torch.no_grad():
        expected = model.eval()(idx)
    model.train()
    weights = inside.attention_weights(model, idx)
    assert F.scaled_dot_product_attention is real and model.training  # all is put back
    assert len(weights) == layers and all(w.shape == (2, 11, 11) for w in weights)
    for w in weights:
        torch.testing.assert_close(w.sum(-1), torch.ones(2, 11))
        assert (w.triu(1) == 0).all()  # nobody looks ahead
    if version != "v2":  # computed with those weights, the model says the same
        with torch.no_grad(), inside.recorded_attention():
            torch.testing.assert_close(model.eval()(idx), expected, atol=1e-5, rtol=1e-4)
    if changes.get("attention") == "mean":
        torch.testing.assert_close(weights[0][0, 3, :4], torch.full((4,), 0.25))


def test_attention_by_hand():
    """Two positions of width 4: q k = 2 ln 3 and 0, over sqrt(4), so weights 3/4 and 1/4."""
    q = torch.zeros(1, 1, 2, 4)
    k = torch.zeros(1, 1, 2, 4)
    q[0, 0, 1, 0], k[0, 0, 0, 0] = 1.0, 2 * math.log(3)
    v = torch.tensor([[[[1.0], [5.0]]]])
    with inside.recorded_attention() as recorded:
        y = F.scaled_dot_product_attention(q, k, v, None, 0.0, is_causal=True)
    torch.testing.assert_close(recorded[0], torch.tensor([[[[1.0, 0.0], [0.75, 0.25]]]]))
    torch.testing.assert_close(y, torch.tensor([[[[1.0], [2.0]]]]))


def test_attention_maps_by_layer_and_head():
    weights = [torch.rand(8, 3, 3) for _ in range(2)]
    figure = inside.attention_figure(weights, ["One", "day", "."], "v4")
    maps = [axes for axes in figure.axes if axes.images and axes.get_title()]
    assert [axes.get_title() for axes in maps] == [
        f"layer {i}, head {j}" for i in (1, 2) for j in range(1, 9)]  # fmt: skip
    for number, axes in enumerate(maps):
        shown = torch.as_tensor(axes.images[0].get_array())
        torch.testing.assert_close(shown, weights[number // 8][number % 8], check_dtype=False)
        assert axes.images[0].get_clim() == (0, 1)  # all in the same grey
    assert [t.get_text() for t in maps[-1].get_xticklabels()] == ["One", "day", "."]
    figure = inside.attention_figure(weights, ["One", "day", "."], "v4", layer=2, head=3)
    (one,) = [axes for axes in figure.axes if axes.images and axes.get_title()]
    assert one.get_title() == "layer 2, head 3"
    torch.testing.assert_close(
        torch.as_tensor(one.images[0].get_array()), weights[1][2], check_dtype=False)  # fmt: skip


def test_predictions_by_hand():
    tokenizer = WordTokenizer.train(["the cat sat down"], 50)
    the, cat, sat, down = tokenizer.encode("the cat sat down")
    probabilities = torch.zeros(3, tokenizer.vocab_size)
    probabilities[0, [cat, sat, down]] = torch.tensor([0.2, 0.7, 0.1])
    probabilities[1, [sat, cat]] = torch.tensor([0.996, 0.004])
    probabilities[2, [down, the, cat]] = torch.tensor([0.5, 0.3, 0.2])
    rows = inside.predictions_table(probabilities, torch.tensor([the, cat, sat]), tokenizer, 2)
    near = pytest.approx
    assert rows == [
        ["the", [("sat", near(0.7), False), ("cat", near(0.2), True)], ("cat", near(0.2), 2)],
        ["cat", [("sat", near(0.996), True), ("cat", near(4e-3), False)], ("sat", near(0.996), 1)],
        ["sat", [("down", 0.5, False), ("the", near(0.3), False)], None],
    ]
    figure = inside.predictions_figure(rows, "v2")
    (axes,) = figure.axes
    texts = written(figure)
    assert texts.count("70 %") == 1 and "<1 %" in texts and "20 %, rank 2" in texts
    frames = [(round(p.get_x() - 0.015), round(p.get_y() - 0.06)) for p in axes.patches]
    assert frames == [(1, 0), (0, 1)]  # guess 2 behind the first token, guess 1 behind the second
    shades = torch.as_tensor(axes.images[0].get_array()).float()
    torch.testing.assert_close(shades, torch.tensor([[0.7, 0.2], [0.996, 0.004], [0.5, 0.3]]))


def test_white_space_is_shown():
    tokenizer = CharTokenizer.train(["a \n$\x03"])
    ids = tokenizer.encode("a \n$\x03")
    assert inside.shown(tokenizer, ids) == ["a", "␣", "↵", r"\$", "<03>"]
    words = WordTokenizer.train(["the cat"], 50)
    assert inside.shown(words, words.encode("the cat")) == ["the", "cat"]


def test_the_plane_is_that_of_the_greatest_variance():
    """Points on a line in space, and a little beside it: the line is the first component."""
    along = torch.tensor([3.0, 4.0, 0.0]) / 5
    across = torch.tensor([0.0, 0.0, 1.0])
    t, u = torch.tensor([-2.0, -1.0, 0.0, 3.0]), torch.tensor([0.1, -0.1, 0.05, -0.05])
    points = t[:, None] * along + u[:, None] * across + 7
    xy, shares = inside.on_a_plane(points)
    distances = torch.cdist(points, points)  # a plane holds them all: no distance changes
    torch.testing.assert_close(torch.cdist(xy, xy), distances, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(xy[:, 0], t - t.mean(), atol=0.02, rtol=0.02)
    total = (t - t.mean()).square().sum() + (u - u.mean()).square().sum()
    assert float(shares.sum()) == pytest.approx(1, abs=1e-4)
    assert float(shares[0]) == pytest.approx(float((t - t.mean()).square().sum() / total), abs=0.01)


def test_nearest_is_by_angle_not_by_length():
    vectors = torch.tensor([[1.0, 0.0], [90.0, 10.0], [0.9, 0.5], [-1.0, 0.0]])
    found = inside.nearest(vectors, 0, n=2)
    assert [row for row, _ in found] == [1, 2]
    assert found[0][1] == pytest.approx(90 / math.hypot(90, 10), abs=1e-5)


def test_embeddings_are_marked_by_kind_and_names_do_not_overlap():
    kinds_of = inside.kinds_of_words("sample")
    names = ["the", "Anna", "Tom", "mill", "brass", "key", "and", "Mira"]
    kinds = [inside.kind_of(name, kinds_of) for name in names]
    assert kinds == ["other words", "women", "men", "places", "materials and colours", "things",
                     "other words", "women"]  # fmt: skip
    assert [inside.kind_of(word, {}) for word in ("Paris", "in")] == ["capitalised", "other words"]
    xy = [[0, 0], [1, 1], [1.001, 1], [0, 1], [1, 0], [0.5, 0.5], [0.2, 0.8], [1, 1]]
    xy = torch.tensor(xy, dtype=torch.float)
    shares = torch.tensor([0.5, 0.25])
    figure = inside.embeddings_figure(xy, shares, names, kinds, 6, "v2")
    (axes,) = figure.axes
    points = {s.get_label(): [tuple(p) for p in s.get_offsets().tolist()] for s in axes.collections}
    assert points["women"] == [(1, 1), (1, 1)] and points["places"] == [(0, 1)]
    assert len(points["other words"]) == 2 and len(points) == 6
    assert "50 %" in axes.get_xlabel() and "25 %" in axes.get_ylabel()
    labels = [text.get_text() for text in axes.texts]
    assert labels == [name for name in names if name in labels] and 4 <= len(labels) <= 6
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


# ---- files and the command line ----


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return finished_run("v3", tmp_path_factory.mktemp("plots") / "v3")


def test_every_picture_of_a_run_as_png_and_svg(run_folder, tmp_path, capsys, monkeypatch):
    tokenizer = load_tokenizer_file(run_folder / "tokenizer.json")
    text = (run_folder.parent / "story.txt").read_text(encoding="utf-8").split()
    words = [word for word in inside.whole_words(tokenizer).values() if word in text]
    commands = [
        ("curves", []), ("attention", ["--prompt", "the key is"]),
        ("predictions", ["--prompt", "the key is", "--top", "3"]),
        ("embeddings", ["--neighbours", words[0], words[1]]),
    ]  # fmt: skip
    for command, more in commands:
        for kind in ("png", "svg"):
            out = tmp_path / f"{command}.{kind}"
            args = ["plots.py", command, str(run_folder), *more, "--out", str(out)]
            monkeypatch.setattr("sys.argv", args)
            plots.main()
            assert capsys.readouterr().out.endswith(f"{out}\n")
        assert (tmp_path / f"{command}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        svg = ElementTree.parse(tmp_path / f"{command}.svg").getroot()
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    again = (tmp_path / "embeddings.svg").read_bytes()
    plots.main()
    assert (tmp_path / "embeddings.svg").read_bytes() == again  # no date, no chance in it
    assert f"| {words[0]} " in capsys.readouterr().out
    assert not list(tmp_path.glob("*.tmp"))


def test_errors_are_one_line(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def fails(says, *args):
        monkeypatch.setattr("sys.argv", ["plots.py", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            run_main(plots.main)
        told = capsys.readouterr().err
        assert stop.value.code == 2 and len(told.splitlines()) == 1 and says in told, told

    fails("no run in nothing, and none of that name, with its curve, in", "curves", "nothing")
    fails("give the folders or names", "curves")
    fails("ends in .png or .svg", "curves", run_folder, "--out", "x.pdf")
    fails("can't write", "curves", run_folder, "--out", "no/such/folder/x.png")
    fails("no run in nothing", "attention", "nothing")
    fails("reads 1 to 16", "predictions", run_folder, "--prompt", "the key " * 20)
    fails("has 2 layers of 2 heads", "attention", run_folder, "--prompt", "the", "--head", 3)
    fails("between 1 and 20", "predictions", run_folder, "--top", 0)
    fails("'xyzzy' is not among the", "embeddings", run_folder, "--neighbours", "xyzzy")
    fails("no command is called 'colours'", "colours")
    bigram = finished_run("v0", tmp_path / "v0")
    capsys.readouterr()
    fails("v0 has no attention", "attention", bigram, "--prompt", "the")
    (bigram / "result.json").unlink()
    fails("is not finished", "predictions", bigram)
    (bigram / "metrics.jsonl").write_text("", encoding="utf-8")
    fails("holds no evaluation yet", "curves", bigram)
    edit_json(bigram / "config.json", version="v9")
    fails("whose script is not in", "embeddings", bigram)
    assert not list(tmp_path.glob("*.p*")) and not list(tmp_path.glob("*.svg"))
