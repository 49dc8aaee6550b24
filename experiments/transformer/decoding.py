"""Attention Is All You Need, section 6.1: beam search and checkpoint averaging, on interface strings."""

from typing import Any

from vit_jax.reproduce.comparison import Claim, Comparison, Recipe, Trial
from vit_jax.reproduce.programs import PROGRAMS

# the schedule of the paper, which ends while the learning rate is high: averaging then matters
_LENGTH = {"duration": "4000 steps", "eval_every": "4000 steps", "checkpoint.every": "100 steps"}
_NOAM = {"optimizer.schedule.name": "noam", "optimizer.schedule.peak": 0.2, "optimizer.schedule.warmup": "200 steps"}
_BASE = Trial("base", Recipe("configs/small.py:messages", {"data.path": "{data}/messages", **_LENGTH, **_NOAM}))


def _scored(name: str, **scoring: Any) -> Trial:
    return Trial(name, of="base", scoring={"average": 5, "beam_size": 4, "length_penalty": 0.6, **scoring})


COMPARISON = Comparison(
    title="Attention Is All You Need, section 6.1: beam search and checkpoint averaging",
    question="How much do beam search, its length penalty and the average of the last checkpoints add?",
    trials=[
        _scored("as the paper: beam 4, alpha 0.6, 5 averaged"),
        _scored("greedy", beam_size=1),
        _scored("beam 2", beam_size=2),
        _scored("beam 8", beam_size=8),
        _scored("alpha 0.0", length_penalty=0.0),
        _scored("alpha 1.0", length_penalty=1.0),
        _scored("last checkpoint", average=1),
        _scored("2 averaged", average=2),
    ],
    claims=[
        Claim("as the paper: beam 4, alpha 0.6, 5 averaged", "greedy"),
        Claim("as the paper: beam 4, alpha 0.6, 5 averaged", "alpha 0.0"),
        Claim("as the paper: beam 4, alpha 0.6, 5 averaged", "last checkpoint"),
    ],
    source="none: arXiv:1706.03762 chose these values on newstest2013, and prints no comparison",
    metric="bleu",
    preparation=[_BASE],
    programs=PROGRAMS,
    note=(
        "Here: the base model of transformer/table3, trained for 4,000 steps with the paper's schedule; interface "
        "strings of programs, English to Italian, 358 test pairs. Every row scores the same runs."
    ),
)
