"""MkDocs hook: pages and tables that are generated, so that each fact is written down once.

- `docs/reference/config.md`: `<!-- generated: config -->` becomes a table for each section of the config's schema.
- `docs/reference/commands.md`: `<!-- generated: commands -->` becomes the help of every command.
- `docs/reference/catalogue.md`: `<!-- generated: models -->` and `<!-- generated: configs -->` become the models with
  their costs, and the recipes with their expected scores.
- `CHANGELOG.md`, the figures of `experiments/results/` and the notebooks become files of the site; links to them are
  rewritten.

`generated` needs no MkDocs, so that the tests can check what it returns.
"""

import argparse
import importlib
import os
import pathlib
import re
from typing import Any
from unittest import mock

ROOT = pathlib.Path(__file__).parents[2]
# a link in docs/*.md, which works in a checkout -> the same link within the site
MOVED = {
    "../CHANGELOG.md": "changelog.md",
    "../experiments/results/": "figures/",
    "../notebooks/": "notebooks/",
}
HELP_WIDTH = 100  # columns


def on_files(files: Any, config: Any) -> Any:
    """Adds the files that are outside `docs/`."""
    from mkdocs.structure.files import File

    outside = {"changelog.md": ROOT / "CHANGELOG.md"}
    results = ROOT / "experiments" / "results"
    outside |= {f"figures/{file.relative_to(results)}": file for file in sorted(results.rglob("*.png"))}
    outside |= {f"notebooks/{file.name}": file for file in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    for name, source in outside.items():
        files.append(File.generated(config, name, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fills in the generated parts of a page and rewrites the links of `MOVED`."""
    for source, target in MOVED.items():
        markdown = markdown.replace(f"]({source}", f"]({target}")
    return generated(markdown)


def generated(markdown: str) -> str:
    """Replaces each `<!-- generated: NAME -->` by what is generated under that name."""
    return re.sub(r"<!-- generated: (\w+) -->", lambda match: GENERATORS[match[1]](), markdown)


def config_reference() -> str:
    """Returns a table of keys, defaults, legal values and meanings for each section of the config schema."""
    from vit_jax import config

    sections: dict[str, list[str]] = {}
    for name, key in config.keys().items():
        section, _, _ = name.rpartition(".")
        cells = (f"`{name}`", _default(key), key.values, key.meaning.replace("<", "&lt;"))
        sections.setdefault(section, []).append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines = []
    for section in sorted(sections, key=lambda name: (name != "", list(sections).index(name))):
        lines += [f"## {section or 'The run'}", "", "| key | default | legal values | meaning |", "|---|---|---|---|"]
        lines += [*sections[section], ""]
    return "\n".join(lines)


def _default(key: Any) -> str:
    if key.default is dict:
        return "`{}`"
    default = key.unless_init if isinstance(key.default, type) else key.default
    return f"unset ({key.default.__name__})" if default is None else f"`{default!r}`"


def command_reference() -> str:
    """Returns the help of every command, as `--help` prints it."""
    from vit_jax.__main__ import COMMANDS, Parser

    lines = []
    for name in COMMANDS:
        module = importlib.import_module(f"vit_jax.commands.{name}")
        parser = Parser(
            prog=f"vit_jax {name}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(parser)
        if parser.epilog:  # the keys of the config, which have a page of their own
            parser.epilog = "Any key of the config can be set as --config.KEY=VALUE."
        lines += [f"## {name}", ""]
        with mock.patch.dict(os.environ, COLUMNS=str(HELP_WIDTH)):  # argparse wraps at the width of the terminal
            helps = [each.format_help().rstrip() for each in (parser, *_subparsers(parser))]
        for text in helps:
            lines += ["```text", text, "```", ""]
    return "\n".join(lines)


def _subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Returns the parsers of a command's own actions, as of `data prepare` and `analyze attention`."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [child for action in actions for child in action.choices.values()]


def models() -> str:
    """Returns a table of the models, with their costs, recipes and formats."""
    from vit_jax.analysis import catalogue

    return catalogue.models_table(list(catalogue.models(folder=ROOT / "configs")))


def configs() -> str:
    """Returns a section for each recipe, with its expected scores."""
    from vit_jax.analysis import catalogue

    return catalogue.recipes_text(catalogue.recipes(ROOT / "configs"))


GENERATORS = {"config": config_reference, "commands": command_reference, "models": models, "configs": configs}
