"""The README fits on one page; its commands are those of the checks, and its numbers are measured."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LINES = 130


def test_it_is_one_page():
    assert len(README.splitlines()) <= LINES


def test_its_first_two_blocks_of_shell_are_the_commands_that_are_checked():
    # .ci/run copies exactly these
    train, tests = re.findall(r"^```bash\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)[:2]
    assert "pip install -e ." in train
    assert "train --config=configs/quickstart.py --workdir=runs/quickstart" in train
    assert "pip install -e '.[test]'" in tests
    assert "-m pytest -n auto" in tests


def test_the_tables_of_results_are_made_from_the_csvs():
    sys.path.insert(0, str(ROOT / "experiments"))
    import results

    made = set()
    for page in results.PAGES:
        text = page.read_text()
        assert results.with_tables(text) == text, "run: python experiments/results.py tables"
        made |= {name for name in results.TABLES if f"<!-- {name}: begin -->" in text}
    assert made == set(results.TABLES)


def test_the_measured_accuracies_are_those_that_are_expected():
    sys.path.insert(0, str(ROOT / "experiments"))
    import results

    measured = {row["data"]: row for row in results.read()}
    assert float(measured["fashion_mnist"]["top1"]) >= 0.90
    assert measured["fashion_mnist"]["examples"] == "10000"


def test_the_range_of_the_quickstart_is_that_of_its_rows():
    sys.path.insert(0, str(ROOT / "experiments"))
    import results

    scores = [100 * float(row["top1"]) for row in results.read() if row["data"] == "digits"]
    assert len(scores) == 5
    said = f"between {min(scores):.1f} and {max(scores):.1f} %"
    for page in ("docs/results.md", "configs/quickstart.py"):
        assert said in (ROOT / page).read_text()
