"""Small wrong changes by package: `MUTANTS[file, tests] = [(old text, new text), ...]`."""
