"""Executes notebooks: makes NAME.ipynb, with its outputs, from NAME.py.

python notebooks/execute.py                 # all of them; models that are missing are trained first
python notebooks/execute.py tables          # one of them

Edit the .py file, in the percent format of jupytext, and then run this.
"""

import argparse
import pathlib

import jupytext
import nbclient
import nbformat
from make_checkpoints import MODELS, make

HERE = pathlib.Path(__file__).resolve().parent
SCRIPTS = ("start", "make_checkpoints", "execute")
NAMES = tuple(sorted(path.stem for path in HERE.glob("*.py") if path.stem not in SCRIPTS))
SECONDS = 3600  # for one cell: training on a busy machine


def read(name: str) -> nbformat.NotebookNode:
    """Returns the notebook NAME.py, without outputs."""
    notebook = jupytext.read(HERE / f"{name}.py")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # jupytext draws them at random
    return notebook


def execute(name: str) -> nbformat.NotebookNode:
    """Returns the notebook NAME.py with its outputs.

    Raises:
      CellExecutionError: A cell failed.
      ValueError: An output contains the folder of this checkout, which differs between machines.
    """
    notebook = read(name)
    nbclient.NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": HERE}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        if str(HERE.parent) in str(cell.get("outputs", "")):
            raise ValueError(f"{name}: the output of this cell contains {HERE.parent}:\n{cell.source}")
    notebook.metadata.pop("language_info", None)  # the version of Python
    return notebook


def make_models(name: str) -> None:
    """Trains the missing models of the notebook NAME, so that its outputs do not contain what training prints."""
    source = (HERE / f"{name}.py").read_text()
    for model in MODELS:
        if f'"{model}"' in source:
            make(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *NAMES], metavar="NAME", help=f"some of {', '.join(NAMES)}")
    for name in parser.parse_args().names or NAMES:
        make_models(name)
        nbformat.write(execute(name), HERE / f"{name}.ipynb")
        print(f"wrote notebooks/{name}.ipynb")


if __name__ == "__main__":
    main()
