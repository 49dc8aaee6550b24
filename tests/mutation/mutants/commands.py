"""Mutants of the command line and of the pictures."""

MUTANTS = {
    ("vit_jax/commands/shared/common.py", "tests/commands/test_arguments.py"): [
        ("if not minimum <= number <= _MOST:", "if number > _MOST:"),
        ("if not minimum <= number <= _MOST:", "if minimum > number:"),
        ("if not text.strip():", "if not text:"),
    ],
    ("vit_jax/__main__.py", "tests/commands/test_arguments.py"): [
        ('if f".{key}".endswith(f".{option[2:]}")', "if key.endswith(option[2:])"),
        ('if "RESOURCE_EXHAUSTED" in str(error):', "if False:"),
    ],
    ("vit_jax/commands/train.py", "tests/commands/test_arguments.py"): [
        ('return "unset by default" if value in ((), "") else', "return"),
        ("key.default if key.unless_init is None else key.unless_init", "key.default"),
    ],
    ("vit_jax/plots/pictures.py", "tests/test_plots.py"): [
        ("vmin=0, vmax=most", "vmin=0, vmax=values.max()"),
        ("panchor=False", "panchor=(0.0, 0.5)"),
        ('(f": {values[0]:.4g}" if len(points) == 1 else "")', '""'),
        ('marker = "o" if len(points) == 1 else "." if len(points) <= FEW_POINTS else None', "marker = None"),
        ("name[1 - letters :]", "name[: letters - 1]"),
        ("axis.set_title(caption, fontsize=8, color=colour)", "axis.set_title(caption, fontsize=8)"),
    ],
    ("vit_jax/plots/figure.py", "tests/test_plots.py"): [
        ('text.encode("utf-8", "replace").decode()', "text"),
    ],
}
