"""Forms: what they accept, how they read the command line, and that their words say the same."""

import math
import re

import pytest

from vit_jax import config as schema
from vit_jax.config import forms
from vit_jax.config.forms import Choice, Items, Number, Whole
from vit_jax.errors import UserError

CONFIG = schema.default_config()


def test_every_number_and_tuple_declares_its_legal_values_and_every_default_is_legal():
    for name, key in schema.keys().items():
        if key.default is dict:
            continue
        kind = key.default if isinstance(key.default, type) else type(key.default)
        assert key.declared or kind in (str, bool), name
        for value in (key.default, key.unless_init):
            assert value is None or isinstance(value, type) or key.form.accepts(value), name


def test_the_choices_of_the_models_are_those_of_the_modules():
    from vit_jax.models import attention, blocks, layers, resnet, timesformer, tnt, transformer, vit
    from vit_jax.models.blocks import timesformer as timesformer_blocks

    families = (vit, tnt, timesformer, transformer)
    choices = {
        "pool": vit.POOLS,
        "pos_embed": {position for family in families for position in family.POSITIONS},
        "pos_embed_at": vit.POSITIONS_AT,
        "resnet_flavour": resnet.FLAVOURS,
        "word_pos_embed": tnt.POSITIONS,
        "attention_type": timesformer_blocks.ATTENTIONS,
        "divided_order": timesformer.ORDERS,
        "weight_init": timesformer_blocks.INITS,
        "norm": transformer.NORMS,
        "gelu": layers.GELU,
        "remat": blocks.REMAT,
        "attention_kernel": attention.KERNELS,
    }
    declared = {
        name.removeprefix("model."): key.form.values
        for name, key in schema.keys().items()
        if name.startswith("model.") and isinstance(key.declared, Choice) and name != "model.dtype"
    }
    assert {name: set(values) for name, values in declared.items()} == {
        name: set(values) for name, values in choices.items()
    }


@pytest.mark.parametrize(
    ("form", "legal", "illegal", "words"),
    [
        (Whole(1, 1_000), (1, 1_000), (0, 1_001, 2.0, True, "3", None, math.nan), "a whole number from 1 to 1,000"),
        (Whole(0), (0, 10**30), (-1,), "a whole number of at least 0"),
        (Number("[0, 1)"), (0, 0.0, 0.99), (-1e-9, 1.0, math.nan, True, "0.5"), "at least 0 and below 1"),
        (Number("(0, 1]"), (1e-30, 1), (0.0, -0.0, 1.1, math.inf), "above 0 and at most 1"),
        (Number(), (-1e300, 0), (math.inf, -math.inf, math.nan), "a finite number"),
        (
            Number("[0, inf)", zero="disables clipping"),
            (0, 1e300),
            (-1, math.inf),
            "at least 0 (0 disables clipping)",
        ),
        (Choice(1, 3), (1, 3), (2, 1.0, True, "1"), "1 or 3"),
        (Choice("a", b="the other"), ("a", "b"), ("c", "", ("a",)), "a or b (the other)"),
        (Choice("a", "b", path=True), ("a", "mylab.nets:Mine"), ("c", "vit:B/16"), "a, b or an import path"),
        (forms.SIDES, ((1, 2), [3, 4]), (2, (1,), (1, 2, 3), (1, 2.0), "12", (0, 1)), "(height, width), each a whole"),
        (
            schema.keys()["data.buckets"].form,
            ((2,), (2, 5)),
            ((), (5, 2), (2, 2), (1,)),
            "increasing lengths such as (16, 32, 64), each a whole number from 2 to 65,536",
        ),
        (
            schema.keys()["profile"].form,
            ((), (3, 3), (1, 9)),
            ((0, 1), (3, 2), (1,), 3),
            "(first, last) or (), each a whole number of at least 1",
        ),
        (forms.DURATION, ("0 steps", "1e3 steps", ".5 epochs"), ("3", "-1 steps", "epochs", 3), "a duration, such as"),
        (forms.INTERVAL, ("1 step", "0.001 epochs", "10 steps"), ("0 steps", "0.0 epochs", "0e5 steps"), "above 0"),
        (forms.REGEX, (".*", "a|b"), ("(", "*", 3), "a regular expression"),
        (forms.TEXT, ("", "é /x y"), ("\n", "\0", 3), "text without control characters"),
        (forms.SWITCH, (True, False), (0, 1, "true"), "true or false"),
    ],
)
def test_what_a_form_accepts_is_what_it_says(form, legal, illegal, words):
    assert [value for value in legal if not form.accepts(value)] == []
    assert [value for value in illegal if form.accepts(value)] == []
    assert words in str(form)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=0x10", 16),
        ("batch_size=1_000", 1000),
        ("optimizer.clip_norm=1", 1.0),
        ("data.strict=TRUE", True),
        ("data.channels=1", 1),
        ("data.languages=en,de", ("en", "de")),
        ("data.buckets=[4, 8]", (4, 8)),
        ("data.buckets=4,8", (4, 8)),
        ("model.patch_size=(4, 2)", (4, 2)),
        ("optimizer.schedule.boundaries=3 epochs, 10_000 steps", ("3 epochs", "10_000 steps")),
        ("optimizer.schedule.boundaries=()", ()),
        ("data.eval_split=3", "3"),
        ("data.path=a=b", "a=b"),
    ],
)
def test_the_command_line_is_read_by_the_type_of_the_key(override, value):
    config = schema.load_config("configs/quickstart.py", [f"--config.{override}"])
    found = schema._get(config, override.partition("=")[0])
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.clip_norm=-1", "config.optimizer.clip_norm must be at least 0 (0 disables clipping), got -1.0"),
        ("optimizer.b1=two", "config.optimizer.b1 must be at least 0 and below 1, got 'two'"),
        (
            "optimizer.ema_decay=nan",
            "config.optimizer.ema_decay must be at least 0 and below 1 (0 disables it), got nan",
        ),
        ("model.num_layers=0", "config.model.num_layers must be a whole number from 1 to 1,000, got 0"),
        (
            "model.representation_dim=0",
            "config.model.representation_dim must be a whole number from 1 to 65,536, got 0",
        ),
        ("model.patch_size=2", "config.model.patch_size must be (height, width), each a whole number"),
        ("data.image_size=9", "config.data.image_size must be (height, width), each a whole number"),
        ("data.languages=en", "config.data.languages must be (source, target), each a name such as 'en', got ('en',)"),
        ("checkpoint.keep_last=-3", "config.checkpoint.keep_last must be a whole number from 1 to 1,000,000, got -3"),
        ("task.length_penalty=nan", "config.task.length_penalty must be at least 0 and at most 10, got nan"),
        ("task.beam_size=100000", "config.task.beam_size must be a whole number from 1 to 1,000, got 100000"),
        ("seed=-1", "config.seed must be a whole number from 0 to 4,294,967,295, got -1"),
        ("seed=4294967296", "config.seed must be a whole number from 0 to 4,294,967,295, got 4294967296"),
        ("model.pool=clss", "unknown config.model.pool 'clss'; did you mean 'cls'?"),
        ("model.pool=None", "unknown config.model.pool 'None'; known: cls, gap, map"),
        ("optimizer.mu_dtype=float33", "unknown config.optimizer.mu_dtype 'float33'; did you mean 'float32'?"),
        ("optimizer.schedule.boundaries=3", "config.optimizer.schedule.boundaries must be a tuple such as"),
        ("eval_every=0 steps", "config.eval_every must be a duration above 0, such as '90 epochs' or '10_000 steps'"),
        ("data.strict=maybe", "config.data.strict must be true or false, got 'maybe'"),
        ("data.path=a\nb", "config.data.path must be text without control characters, got 'a\\nb'"),
    ],
)
def test_an_illegal_value_is_one_line_with_key_legal_values_and_value(override, message):
    with pytest.raises(UserError) as caught:
        schema.load_config("configs/quickstart.py", [f"--config.{override}"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_and_the_reference_print_the_words_of_the_check():
    from vit_jax.commands.train import _keys

    printed = " ".join(_keys().split())
    for name, key in schema.keys().items():
        if key.values:
            assert f"{name}: " in printed
            assert " ".join(key.description.split()) in printed, name


def test_a_model_of_ones_own_may_have_other_words_but_no_other_numbers():
    overrides = ["--config.model.name=mylab.nets:Mixer", "--config.model.hidden_dim=64"]
    config = schema.load_config("configs/quickstart.py", overrides)
    config.model.pool = "median"
    schema.check(config)
    config.model.num_layers = 0
    with pytest.raises(UserError, match=re.escape("config.model.num_layers must be a whole number from 1 to 1,000")):
        schema.check(config)


def test_a_tuple_refuses_another_order():
    increasing = Items(Whole(), "increasing numbers", order=lambda a, b: a < b)
    assert increasing.accepts((1, 2, 5))
    assert not increasing.accepts((1, 5, 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": 2}, "patch_size must be (height, width), each a whole number from 1 to 4,096, got 2"),
        (
            {"patch_size": (2, 2.5)},
            "patch_size must be (height, width), each a whole number from 1 to 4,096, got (2, 2.5)",
        ),
        ({"image_size": 224}, "image_size must be (height, width), each a whole number from 1 to 16,384, got 224"),
        ({"num_layers": 0}, "num_layers must be a whole number from 1 to 1,000, got 0"),
        ({"num_heads": 0}, "num_heads must be a whole number from 1 to 1,024, got 0"),
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
    ],
)
def test_a_model_built_from_python_names_the_field(fields, message):
    from vit_jax.models import build_model

    with pytest.raises(ValueError, match=re.escape(message)):
        build_model("vit:Ti/16", **fields)
    assert build_model("vit:Ti/16", num_classes=None, representation_dim=None).num_classes is None
