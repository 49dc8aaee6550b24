#!/usr/bin/env bash
# Writes requirements/NAME.lock: what pip resolves today for a Python, for example `bash requirements/lock.sh python3.11`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: lock.sh PYTHON, as python3.11}
name=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
"$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --upgrade pip
"$venv/bin/pip" install --quiet --dry-run --ignore-installed --report "$venv/report.json" '.[test,docs]'
"$venv/bin/python" - "$venv/report.json" > "requirements/$name.lock" <<'PYTHON'
import json, sys
found = {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in json.load(open(sys.argv[1]))["install"]}
found.pop("vit_jax", None), found.pop("vit-jax", None)
print("# made by requirements/lock.sh on Python", sys.version.split()[0])
print("\n".join(f"{name}=={version}" for name, version in sorted(found.items())))
PYTHON
echo "wrote requirements/$name.lock"
