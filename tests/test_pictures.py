"""The README's pictures of a model, and the labels that have to be in them."""

from results import drawing, embeddings, pictures, store

import torch


def written(axes):
    return [text.get_text() for text in axes.texts]


def test_words_that_are_asked_for_are_named_even_where_it_is_crowded():
    names = [f"word{i}" for i in range(12)]
    xy = torch.tensor([[0.0, 0.0], [9.0, 9.0]] + [[4 + 0.01 * i, 4.0] for i in range(10)])
    kinds = ["one"] * 6 + ["two"] * 6
    rest = torch.tensor([0.5, 0.25]), names, kinds, 4, "v2"
    (axes,) = embeddings.embeddings_figure(xy, *rest).axes
    assert {"one", "two"} < set(written(axes)) and "word5" not in written(axes)
    (axes,) = embeddings.embeddings_figure(xy, *rest, asked=["word5"]).axes
    assert {"one", "two", "word5"} < set(written(axes))


def test_pictures_of_a_model_change_with_its_published_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROOT", tmp_path)
    assert pictures.model_pictures() == {}  # no weights
    path = tmp_path / "results" / "models" / f"{pictures.PICTURED}.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    before = pictures.model_pictures()
    assert list(before) == ["attention.svg", "predictions.svg", "embeddings.svg"]
    path.write_bytes(b"other weights")
    for name, picture in pictures.model_pictures().items():
        assert drawing.fingerprint(picture[1:]) != drawing.fingerprint(before[name][1:])
