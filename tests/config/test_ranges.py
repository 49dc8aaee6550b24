"""Property tests of the whole schema: a value of the right type is legal, or refused in one line."""

import functools
import pathlib

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vit_jax import config as schema
from vit_jax.config.forms import Choice, Items, Number, Whole
from vit_jax.data.modality import get_modality
from vit_jax.errors import UserError
from vit_jax.experiment import Plan, abstract_params, make_model, make_task
from vit_jax.schedule import Durations, make_schedule

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
KEYS = {name: key for name, key in schema.keys().items() if key.default is not dict}
CHEAP = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
DURATIONS = st.builds(
    "{} {}".format, st.sampled_from(["0", "1", "7", "0.5", "1e3", "10_000", "1e400", "-1", "nan"]),
    st.sampled_from(["steps", "epochs", "step", "days", ""]),
)  # fmt: skip


def edges(form):
    """Returns values at and beyond the limits of a form."""
    if isinstance(form, Whole):
        return [limit + delta for limit in (form.low, form.high) if limit is not None for delta in (-1, 0, 1)]
    if isinstance(form, Number):
        low, high, *_ = form._limits()
        return [low, high, low - 1e-6, high + 1e-6]
    if isinstance(form, Choice):
        return list(form.values)
    if isinstance(form, Items):
        inner = edges(form.item) or ["a", "b"]
        return [tuple(inner[:2]), tuple(inner), tuple(inner[:1]), ()]
    return []


def of_type(name):
    """Draws values of the type of a key, legal and illegal ones."""
    key = KEYS[name]
    kind = key.default if isinstance(key.default, type) else type(key.default)
    item = st.one_of(st.integers(-2, 40), st.floats(), st.text(max_size=5), st.booleans(), DURATIONS)
    drawn = {
        int: st.one_of(st.integers(), st.integers(-2, 40)),
        float: st.one_of(st.floats(), st.floats(-0.5, 1.5), st.integers(-1, 2).map(float)),
        bool: st.booleans(),
        str: st.one_of(st.text(max_size=20), DURATIONS),
        tuple: st.lists(item, max_size=4).map(tuple),
    }[kind]
    special = edges(key.form)
    return st.one_of(st.sampled_from(special), drawn) if special else drawn


ANY_KEY = st.sampled_from(sorted(KEYS)).flatmap(lambda name: st.tuples(st.just(name), of_type(name)))


@functools.cache
def quickstart():
    return schema.load_config(str(CONFIGS / "quickstart.py"), [])


def refused(function, *args):
    """Returns the message of a UserError, which must be one line; None if there is no error."""
    message = None
    try:
        function(*args)
    except UserError as error:
        message = str(error)
    assert message is None or "\n" not in message
    return message


def set_and_resolve(name, value):
    """What a config file does, and everything that follows without data and without compiling."""
    config = schema.copy(quickstart())
    schema._set(config, name, value)
    schema.check(config)
    encoder = get_modality("image").make_encoder(quickstart(), train=False)
    make_task(config, encoder, ("a", "b"))
    plan = Plan.from_config(config, 1437 / config.batch_size)
    section = config.optimizer.schedule
    durations = {"total_steps": plan.total, "steps_per_epoch": plan.steps_per_epoch}
    rate = make_schedule(section, **durations, hidden_dim=64)
    Durations.of(section, **durations)
    for step in (0, plan.total - 1):
        assert float(rate(step)) >= 0


def check_value(name, value):
    is_legal = KEYS[name].form.accepts(value)
    message = refused(set_and_resolve, name, value)
    if not is_legal:
        assert message is not None
        assert name in message
    typed = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    message = refused(schema.load_config, str(CONFIGS / "quickstart.py"), [f"--config.{name}={typed}"])
    if not is_legal and not isinstance(value, tuple):  # parts of a tuple may be read as other types
        assert message is not None
        assert name in message


@settings(CHEAP, max_examples=120)
@given(ANY_KEY)
def test_a_value_is_legal_or_refused_in_one_line(drawn):
    check_value(*drawn)


@pytest.mark.slow
@settings(CHEAP, max_examples=10_000)
@given(ANY_KEY)
def test_ten_thousand_values_are_legal_or_refused_in_one_line(drawn):
    check_value(*drawn)


# ---- models ----

FAMILIES = {
    "vit:Ti/2": {"image": "vit"},
    "tnt:Ti/4": {"image": "tnt"},
    "timesformer:Ti/4": {"video": "timesformer"},
}
SMALL = {"hidden_dim": 16, "mlp_dim": 32, "num_layers": 1, "num_heads": 2}


def small_values(field):
    """Draws legal values of a field of a model, small enough to trace the model in a moment."""
    key = KEYS[f"model.{field}"]
    form = key.form
    if isinstance(form, Choice):
        return st.sampled_from(form.values)
    if isinstance(form, Whole):
        return st.integers(1, 3 if field == "num_layers" else 40)
    if isinstance(form, Number):
        return st.sampled_from([0.0, 0.5, 1e-6, 0.999])
    if isinstance(form, Items):
        return st.lists(st.integers(0, 5), max_size=3).map(tuple)
    return st.booleans()


@st.composite
def models(draw):
    family = draw(st.sampled_from(sorted(FAMILIES)))
    from vit_jax.config.families import module_fields

    fields = sorted(set(module_fields(family.partition(":")[0])) & {name[6:] for name in KEYS if name[:6] == "model."})
    chosen = draw(st.lists(st.sampled_from(fields), min_size=1, max_size=3, unique=True))
    return family, {field: draw(small_values(field)) for field in chosen}


def build(family, fields):
    modality = "video" if family.startswith("timesformer") else "image"
    config = schema.copy(quickstart())
    config.model.name = family
    config.model.pool = None  # that of the quickstart, which only a ViT has
    config.data.num_frames, config.data.sampling = 2, "first"
    for field, value in {**SMALL, **fields}.items():
        schema._set(config, f"model.{field}", value)
    schema.check(config)
    encoder = get_modality(modality).make_encoder(config, train=False)
    model = make_model(config, encoder, ("a", "b"))
    task = make_task(config, encoder, ("a", "b"))
    assert jax.tree.leaves(abstract_params(model, task))


@settings(CHEAP, max_examples=12)
@given(models())
def test_fields_of_a_model_fit_together_or_are_refused_in_one_line(drawn):
    refused(build, *drawn)


@pytest.mark.slow
@settings(CHEAP, max_examples=500)
@given(models())
def test_many_fields_of_a_model_fit_together_or_are_refused_in_one_line(drawn):
    refused(build, *drawn)
