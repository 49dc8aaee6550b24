"""The documentation agrees with the project: links, commands, config keys, files and code."""

import ast
import functools
import importlib
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from vit_jax import __main__ as command_line
from vit_jax import config as schema

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = {"docs/changelog.md": "CHANGELOG.md"}  # pages of the site alone, and what they are made from
RUN = "<!-- run -->"  # marks a block of Python that the tests run

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
FOLDERS = ("vit_jax", "configs", "docs", "experiments", "tests", "benchmarks", "requirements", "examples", "notebooks")
IN_VIT_JAX = ("commands", "data", "tasks", "models", "workdir", "pretrained", "analysis")


def page_name(page):
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=page_name)


def prose(page):
    """Returns a page without its blocks of code."""
    return FENCE.sub("", page.read_text())


def blocks(page, language):
    return [body for name, body in FENCE.findall(page.read_text()) if name.split()[:1] == [language]]


def spans(page):
    """Returns the inline code of a page."""
    return INLINE.findall(prose(page))


@functools.cache
def anchors(page):
    """Returns the anchors of the headings of a page, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@each_page
def test_fences_are_closed(page):
    assert len(re.findall(r"^```", page.read_text(), re.MULTILINE)) == 2 * len(FENCE.findall(page.read_text()))


@each_page
def test_links_resolve(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"[^\s]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(f"docs/{name}" for name in listed) == sorted(
        [*(page_name(page) for page in PAGES if ROOT / "docs" in page.parents), *GENERATED]
    )


@each_page
def test_files_that_are_named_exist(page):
    for span in spans(page):
        path = span.partition(":")[0]
        first = path.partition("/")[0]
        if re.fullmatch(r"[\w.\-]+(/[\w.\-]*)+", path) and first in (*FOLDERS, *IN_VIT_JAX):
            found = ROOT / path if first in FOLDERS else ROOT / "vit_jax" / path
            assert found.exists() or (ROOT / path).exists(), span


def python_blocks():
    for page in PAGES:
        for number, body in enumerate(blocks(page, "python"), start=1):
            yield pytest.param(body, id=f"{page_name(page)}-{number}")


@pytest.mark.parametrize("body", python_blocks())
def test_python_compiles(body):
    compile(body, "block", "exec")


def runnable_blocks():
    for page in PAGES:
        text = page.read_text()
        found = re.findall(rf"^{re.escape(RUN)}\n```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        marks = re.findall(rf"^{re.escape(RUN)}$", text, re.MULTILINE)
        assert len(found) == len(marks), f"{page}: {RUN} must be followed by a block of Python"
        for number, body in enumerate(found, start=1):
            yield pytest.param(body, id=f"{page_name(page)}-{number}")


@pytest.mark.parametrize("body", runnable_blocks())
def test_marked_python_runs(body, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(body, "block", "exec"), {})


@each_page
def test_shell_parses(page):
    for body in blocks(page, "bash"):
        assert subprocess.run(["bash", "-n"], input=body, text=True, capture_output=True).stderr == "", body


def command_lines(page):
    """Yields the folder and the arguments of every `python -m vit_jax` on a page, in blocks and in inline code."""
    for body in (*blocks(page, "bash"), *spans(page)):
        folder = ROOT
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["cd"]:
                folder = ROOT / words[1]
            for place in range(len(words) - 2):
                if words[place].endswith("python") and words[place + 1 : place + 3] == ["-m", "vit_jax"]:
                    end = (i for i, word in enumerate(words) if i > place and word in ("&&", "|", ">", "<", ";"))
                    arguments = words[place + 3 : next(end, len(words))]
                    if "--help" not in arguments:
                        yield folder, arguments


@pytest.fixture
def parse(monkeypatch):
    """Parses a command line with the real parser, and returns its options instead of running the command."""
    seen = []
    for name in command_line.COMMANDS:
        monkeypatch.setattr(importlib.import_module(f"vit_jax.commands.{name}"), "run", seen.append)

    def parsed(arguments):
        seen.clear()
        command_line.main(arguments)
        return seen[0]

    return parsed


@each_page
def test_commands_parse(page, parse, monkeypatch):
    for folder, arguments in command_lines(page):
        options = parse(arguments)
        if arguments[0] == "train":
            monkeypatch.chdir(folder)
            schema.load_config(options.config, options.overrides)


def test_there_are_commands_on_the_pages():
    assert {arguments[0] for page in PAGES for _, arguments in command_lines(page)} == set(command_line.COMMANDS)


@each_page
def test_config_keys_exist(page):
    known = schema.keys()
    sections = {name.rpartition(".")[0] for name in known}
    top = {name.partition(".")[0] for name in sections if name}
    for span in spans(page):
        match = re.match(r"(?:--)?(config\.)?((?:\w+\.)*\w+)(?:=|$)", span.partition(" ")[0])
        if match is None or span.endswith((".py", ".json", ".safetensors", ".stablehlo", ".onnx")) or match[2] == "KEY":
            continue
        name = match[2]
        if match[1] or (name.partition(".")[0] in top and "." in name):
            free = any(name.startswith(f"{section}.extra.") for section in sections)
            assert name in known or name in sections or free, span


def test_the_generated_reference_is_complete():
    sys.path.insert(0, str(ROOT / "docs" / "hooks"))
    import generate

    reference = generate.generated((ROOT / "docs" / "reference" / "config.md").read_text())
    for name, key in schema.keys().items():
        assert f"| `{name}` |" in reference
        assert key.meaning.replace("<", "&lt;").replace("|", "\\|") in reference
        assert f"| {key.values} |" in reference
    commands = generate.generated((ROOT / "docs" / "reference" / "commands.md").read_text())
    for name in command_line.COMMANDS:
        assert f"## {name}\n" in commands
    assert "--few_shot" in commands


def test_the_way_of_a_batch_names_at_most_twelve_files_once():
    text = (ROOT / "docs" / "architecture.md").read_text()
    way = text.partition("## What happens to one batch")[2].partition("\n## ")[0]
    steps = re.findall(r"^\d+\. `([\w/]+\.py)`", way, re.MULTILINE)
    assert 0 < len(steps) <= 12
    assert len(set(steps)) == len(steps)
    assert sorted(re.findall(r"`([\w/]+\.py)`", way)) == sorted(steps)
    for file in steps:
        assert (ROOT / "vit_jax" / file).exists(), file


def test_imports_point_along_the_arrows():
    text = (ROOT / "docs" / "architecture.md").read_text()
    line = re.search(r"^commands -> .*$", text, re.MULTILINE)[0]
    rank = {name: number for number, group in enumerate(line.split(" -> ")) for name in group.split(" | ")}
    for name in rank:
        package, module = ROOT / "vit_jax" / name, ROOT / "vit_jax" / f"{name}.py"
        for file in package.rglob("*.py") if package.is_dir() else [module]:
            for node in ast.parse(file.read_text()).body:  # imports inside functions are left out
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vit_jax"):
                    names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
                    assert all(rank.get(to, rank[name]) >= rank[name] for to in names), f"{file} imports {names}"
