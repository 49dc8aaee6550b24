"""The computed tables of the papers: what is committed is what is computed, and mistakes are reported in one line."""

import csv
import pathlib

import pytest

from vit_jax.__main__ import main
from vit_jax.reproduce.tables import Cell, find_tables, load_definition, read_cells

ROOT = pathlib.Path(__file__).parents[2]
TABLES = find_tables(ROOT / "experiments")
COMPUTED = [name for name, path in TABLES.items() if load_definition(path).table]
QUICK = ("tnt/table12", "timesformer/table2")
pytestmark = pytest.mark.usefixtures("own_home")


def committed(name):
    return (ROOT / "experiments" / "results" / name).with_suffix(".csv")


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in COMPUTED)])
def test_the_committed_numbers_are_what_is_computed(name):
    table = load_definition(TABLES[name]).table
    assert read_cells(committed(name)) == [cell for row in table.rows for cell in table.compute(row)]


@pytest.mark.parametrize("name", COMPUTED)
def test_every_difference_has_a_reason_and_every_reason_a_difference(name):
    cells = read_cells(committed(name))
    assert cells
    assert [cell for cell in cells if cell.differs != bool(cell.reason)] == []
    table = load_definition(TABLES[name]).table
    assert committed(name).with_suffix(".md").read_text() == f"{table.markdown(cells)}\n"
    assert len({row.name for row in table.rows}) == len(table.rows)
    assert f"## {table.title}\n" in (ROOT / "docs" / "tables.md").read_text()


@pytest.mark.parametrize(
    ("printed", "computed", "differs"),
    [
        ("86", 86.4, False),
        ("86", 86.6, True),
        ("4.6", 4.6499, False),
        ("4.6", 4.66, True),
        ("330.0", 330.04, False),
        ("", 1.0, False),
    ],
)
def test_numbers_are_compared_in_the_printed_digits(printed, computed, differs):
    assert Cell("row", "column", printed, computed, "").differs == differs


DEFINITION = """
from vit_jax.reproduce.tables import PARAMS, Row, Table
SIZES = {"hidden_dim": 8, "mlp_dim": 8, "num_heads": 1, "num_layers": 1, "num_classes": 2}
ROWS = [Row("one", "vit:Ti/16", SIZES, printed={PARAMS.name: "9.9"}), Row("two", "vit:Ti/32", SIZES)]
TABLE = Table("Tiny", "none", ROWS, (PARAMS,))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "table1.py").write_text(DEFINITION)
    (tmp_path / "tiny" / "broken.py").write_text("TABLE = 1 / 0")
    (tmp_path / "tiny" / "empty.py").write_text("")
    return tmp_path


def test_an_unexplained_difference_is_marked_and_fails(folder, capsys):
    assert main(["reproduce", "tiny/table1", f"--folder={folder}"]) == 1
    params = 16 * 16 * 3 * 8 + 8 + 197 * 8 + 8 + 4 * (8 * 8 + 8) + 2 * (8 * 8 + 8) + 3 * 16 + 8 * 2 + 2
    assert f"| one | {params / 1e6:.6g} | 9.9 **differs** |" in capsys.readouterr().out
    with (folder / "results" / "tiny" / "table1.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["printed"], row["reason"]) for row in rows] == [("one", "9.9", ""), ("two", "", "")]
    assert float(rows[0]["computed"]) == params / 1e6
    assert sorted(path.name for path in (folder / "results" / "tiny").iterdir()) == ["table1.csv", "table1.md"]


def test_one_row_is_printed_and_not_written(folder, capsys):
    assert main(["reproduce", str(folder / "tiny" / "table1.py"), "--only=two", f"--folder={folder}"]) == 0
    assert "| two |" in capsys.readouterr().out
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny/tabel1"], "unknown table 'tiny/tabel1'; did you mean 'tiny/table1'?"),
        (["tiny/table1", "--only=tow"], "no row 'tow' in Tiny; did you mean 'two'?"),
        (["tiny/broken"], "ZeroDivisionError: division by zero"),
        (["tiny/empty"], "must define TABLE = Table(...)"),
        (["--all", "--list"], "give one or more tables, --all or --list"),
        ([], "give one or more tables, --all or --list"),
        (["--all", "--only=one"], "--only applies to one table"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, arguments, message):
    assert main(["reproduce", *arguments, f"--folder={folder}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_without_tables_and_a_csv_of_another_version(folder, capsys, tmp_path_factory):
    assert main(["reproduce", "--list", f"--folder={tmp_path_factory.mktemp('empty')}"]) == 2
    assert "has no tables. Run this command in a checkout of vit_jax" in capsys.readouterr().err
    (folder / "tiny" / "broken.py").unlink()
    (folder / "tiny" / "empty.py").unlink()
    (folder / "results" / "tiny").mkdir(parents=True)
    (folder / "results" / "tiny" / "table1.csv").write_text("a,b\n1,2\n")
    assert main(["reproduce", "--list", f"--folder={folder}"]) == 2
    assert "has the columns ['a', 'b']" in capsys.readouterr().err
