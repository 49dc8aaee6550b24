"""The notebooks: each .ipynb is made from its .py, is legible without running it, and its code compiles."""

import ast
import base64
import pathlib
import sys

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupytext")
pytest.importorskip("nbclient")

HERE = pathlib.Path(__file__).resolve().parents[2] / "notebooks"
sys.path.insert(0, str(HERE))
import execute  # noqa: E402

NAMES = (
    "attention", "pretrained", "positions", "quickstart", "rank_collapse", "tables", "translation", "video_embeddings",
)  # fmt: skip
MOST_BYTES = 1_500_000  # of a notebook: GitHub draws small ones at once
each_notebook = pytest.mark.parametrize("name", execute.NAMES)


def committed(name):
    return nbformat.read(HERE / f"{name}.ipynb", as_version=4)


def code(name):
    return [cell for cell in execute.read(name).cells if cell.cell_type == "code"]


def test_there_are_eight():
    assert sorted(execute.NAMES) == sorted(NAMES)
    assert sorted(path.stem for path in HERE.glob("*.ipynb")) == sorted(NAMES)


@each_notebook
def test_ipynb_and_py_have_the_same_cells(name):
    written = [(cell.cell_type, cell.source) for cell in execute.read(name).cells]
    assert [(cell.cell_type, cell.source) for cell in committed(name).cells] == written


@each_notebook
def test_the_first_cells_are_the_same(name):
    title, start, *_ = execute.read(name).cells
    assert title.cell_type == "markdown"
    assert title.source.startswith("# ")
    assert "\nYou will see " in title.source
    assert start.source == execute.read("tables").cells[1].source


@each_notebook
def test_code_compiles_and_imports_exist(name):
    for cell in code(name):
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("vit_jax"):
                module = __import__(str(node.module), fromlist=[alias.name for alias in node.names])
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@each_notebook
def test_outputs_are_committed_and_legible(name):
    notebook = committed(name)
    assert (HERE / f"{name}.ipynb").stat().st_size < MOST_BYTES
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "executed from top to bottom"
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    for picture in pictures:
        assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.mark.slow
@each_notebook
def test_it_runs(name):
    """Trains the models that are missing, so that a fresh checkout takes some ten minutes in all."""
    execute.execute(name)
