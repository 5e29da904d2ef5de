"""The notebook runs, with the outputs that are stored in it, and needs load_run alone."""

import re

import nbformat
import pytest
from inputs import put
from lineage import ROOT
from nbclient import NotebookClient
from test_architecture import imported

TOUR = ROOT / "notebooks" / "tour.ipynb"
NUMBER = r"-?\d+\.\d+"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell):
    """All that a cell printed."""
    return "".join(out.text for out in cell.outputs if out.output_type == "stream")


def n_pictures(cell):
    return sum("image/png" in out.get("data", {}) for out in cell.outputs)


def test_the_notebook_needs_load_run_alone_of_the_project(tmp_path):
    own = {path.stem for path in ROOT.iterdir() if path.suffix in ("", ".py")}
    source = "\n".join(cell.source for cell in code_cells(nbformat.read(TOUR, 4)))
    names = imported(put(tmp_path / "tour.py", source))
    found = [name for name in names if name.partition(".")[0] in own]
    assert found == ["results", "results.load_run"]


@pytest.mark.slow
def test_the_stored_outputs_are_what_running_the_notebook_gives(tmp_path, monkeypatch):
    """After a change: python -m jupyter execute --inplace notebooks/tour.ipynb."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):  # not the user's own
        monkeypatch.setenv(name, str(tmp_path))
    stored = nbformat.read(TOUR, 4)
    again = nbformat.read(TOUR, 4)
    NotebookClient(again, timeout=600, resources={"metadata": {"path": TOUR.parent}}).execute()
    for old, new in zip(code_cells(stored), code_cells(again), strict=True):
        before, after = text_of(old), text_of(new)
        assert re.sub(rf" *{NUMBER}", "#", before) == re.sub(rf" *{NUMBER}", "#", after), new.source
        numbers = [[float(n) for n in re.findall(NUMBER, text)] for text in (before, after)]
        assert numbers[1] == pytest.approx(numbers[0], abs=0.02), new.source
        assert n_pictures(old) == n_pictures(new)
        assert old.execution_count == new.execution_count
    assert any(map(text_of, code_cells(stored))) and sum(map(n_pictures, code_cells(stored))) >= 4
