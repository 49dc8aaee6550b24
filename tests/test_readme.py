"""What the README says is what the project does."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_tables_of_results_are_made_from_the_csvs():
    sys.path.insert(0, str(ROOT / "experiments"))
    import results

    assert results.readme_with_tables(README) == README, "run: python experiments/results.py readme"
    measured = {row["data"]: row for row in results.read()}
    assert float(measured["digits"]["top1"]) >= 0.97
    assert float(measured["fashion_mnist"]["top1"]) >= 0.90
    assert measured["fashion_mnist"]["examples"] == "10000"


def test_every_file_it_links_to_exists():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
