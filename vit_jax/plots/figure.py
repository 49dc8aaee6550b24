"""Figures for papers: their sizes, fonts and colours, and saving them as PNG, PDF or SVG."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from vit_jax.errors import UserError

COLUMN, PAGE = 3.3, 6.9  # widths in inches: one column of a paper, and both
PIXELS_PER_INCH = 300  # of PNG files; vector formats have none, except for images inside of them
SUFFIXES = (".png", ".pdf", ".svg")
# Okabe and Ito's colours, which people with any common colour blindness can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SEQUENTIAL, DIVERGING = "cividis", "RdBu_r"  # colour maps that are also safe

# Fonts with characters that Matplotlib's own font does not have; those that are installed are used
_MORE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Noto Sans", "FreeSans", "Unifont",
)  # fmt: skip
_PAPER = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "figure.titlesize": 8,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "lines.markersize": 3,
    "pdf.fonttype": 42,  # TrueType: journals refuse Matplotlib's default, Type 3
}


@contextlib.contextmanager
def figure(path: Any, width: float = COLUMN, height: float = 2.3) -> Iterator[Any]:
    """Yields a Matplotlib figure of this size in inches, laid out for a paper, and then writes it to `path`.

        with figure("curve.pdf") as drawing:
            axis = drawing.subplots()
            axis.plot(depth, residual, color=COLOURS[0])

    The suffix of `path` chooses the format: `.png`, at 300 pixels per inch, or the vector formats `.pdf` and `.svg`.
    Text is 7 points high, and is drawn as it is: `$` does not start a formula.

    Raises:
      UserError: The suffix is another one; see `check_path`.
    """
    check_path(path)
    with open_figure(width, height, _PAPER) as drawing:
        yield drawing
        save(drawing, epath.Path(path), PIXELS_PER_INCH)


def check_path(path: Any, option: str = "", also: Sequence[str] = ()) -> epath.Path:
    """Returns the path of a figure to write.

    Args:
      option: Name of the command's option that holds the path, for messages.
      also: Further suffixes to allow.

    Raises:
      UserError: Its suffix is not in `SUFFIXES`, or its folder does not exist.
    """
    path, name = epath.Path(path), f"{option}={path}" if option else str(path)
    if path.suffix.lower() not in (*SUFFIXES, *also):
        raise UserError(f"{name}: the name must end in one of {', '.join((*SUFFIXES, *also))}")
    if not path.parent.is_dir():
        raise UserError(f"{name}: there is no folder {path.parent}")
    return path


@contextlib.contextmanager
def open_figure(width: float, height: float, style: dict[str, Any] | None = None) -> Iterator[Any]:
    """Yields a Matplotlib figure of this size in inches, with fonts for the scripts for which some are installed."""
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot, which needs a display or changes the caller's backend
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in _MORE_FONTS if name in installed)]
    settings: Any = {"font.family": fonts, "text.parse_math": False}
    with matplotlib.rc_context(settings | (style or {})):
        yield Figure(figsize=(width, height), layout="constrained")


def save(drawing: Any, path: epath.Path, pixels_per_inch: int) -> None:
    """Writes a figure. Characters that no installed font has are named in one line instead of a warning each."""
    content = io.BytesIO()  # Matplotlib writes to local files only, but a workdir may be in an object store
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drawing.savefig(content, dpi=pixels_per_inch, format=path.suffix[1:].lower() or "png")
    missing = []
    for warning in caught:
        if match := re.match(r"Glyph (\d+) ", str(warning.message)):
            missing.append(chr(int(match[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        text = "".join(dict.fromkeys(missing))
        logging.warning("%s: no installed font has the characters %s; they are drawn as boxes", path, text)
    path.write_bytes(content.getvalue())


def drawable(text: str) -> str:
    """Replaces what no font can draw: control characters, and bytes of a file name that are not UTF-8."""
    return re.sub(r"[^\S\n ]|[\x00-\x09\x0b-\x1f]", " ", text.encode("utf-8", "replace").decode())
