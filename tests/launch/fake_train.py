"""Stands in for `python -m vit_jax train` where only launching is tested: counts steps, saves, resumes, fails.

The workdir has `saved` (the last step), `lives` (a line for each start) and, as of a real run, runs.jsonl and
metrics.jsonl. With a seed of 13, it fails. A step takes $STEP_SECONDS.
"""

import json
import os
import pathlib
import signal
import sys
import time

STEPS = 10


def main(words):
    options = dict(word.removeprefix("--").partition("=")[::2] for word in words if word.startswith("--"))
    workdir = pathlib.Path(options["workdir"])
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "lives").open("a") as file:
        print(time.monotonic(), file=file)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    if options.get("config.seed") == "13":
        sys.exit("vit_jax: loss is nan at step 3.")
    saved = workdir / "saved"
    for step in range(int(saved.read_text()) + 1 if saved.exists() else 1, STEPS + 1):
        time.sleep(float(os.environ["STEP_SECONDS"]))
        print(f"step {step:>6}/{STEPS}  train  loss {1 / step:.4g}", flush=True)
        saved.write_text(str(step))
        if stopped:
            print(f"vit_jax: stopped after step {step} of {STEPS}, which is saved", file=sys.stderr)
            sys.exit(143)
    rows = [{"step": STEPS, "split": "train", "loss": 0.1}, {"step": STEPS, "split": "eval", "loss": 0.2, "top1": 0.75}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workdir / "runs.jsonl").write_text(json.dumps({"status": "finished"}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
