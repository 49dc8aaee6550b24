"""Models of all families, and what is compared for each, compiled once."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import build_model
from vit_jax.analysis import attention, attention_map, attention_matrix
from vit_jax.analysis.attention.weights import groups, last_kind, mix

SIZES = {"image_size": (8, 12), "patch_size": (4, 4), "hidden_dim": 8, "mlp_dim": 8, "num_heads": 2, "num_layers": 2}
WORDS = {"inner_hidden_dim": 4, "inner_mlp_dim": 4, "inner_num_heads": 2, "num_words": 4}
VIDEO = {"num_frames": 3, "gelu": "tanh"}
PATCHES = 6  # of an image or a frame, 2 x 3
SCHEMES = ("space_only", "joint_space_time", "divided_space_time", "sparse_local_global", "axial")
MODELS = {
    "vit": ("vit:Ti/4", {}),
    "gap": ("vit:Ti/4", {"pool": "gap", "num_registers": 1}),
    "distilled": ("vit:Ti/4", {"distillation_token": True}),
    "tnt": ("tnt:Ti/4", WORDS),
    **{scheme: ("timesformer:B/4", VIDEO | {"attention_type": scheme}) for scheme in SCHEMES},
    "parallel": ("timesformer:B/4", VIDEO | {"divided_order": "parallel"}),
    "space_first": ("timesformer:B/4", VIDEO | {"divided_order": "space_first"}),
    "cls_in_temporal": ("timesformer:B/4", VIDEO | {"cls_in_temporal_attention": True}),
}
# Models whose blocks are computed again below; TNT's have words, too
PLAIN = [name for name in MODELS if name not in ("tnt", "distilled")]
FAST = ("vit",)
METHODS = {"weights": {}, "head": {"head": 1}, "rollout": {"method": "rollout"}, "gradient": {"method": "gradient"}}
METHODS = {name: {"method": "weights", **options} for name, options in METHODS.items()}


def cases(*names):
    """Returns names of models as cases of a test. Those that are not in `FAST` are slow, because they are compiled."""
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


@functools.cache
def made(name, **more):
    """Returns a model, parameters without zeros and two inputs."""
    variant, fields = MODELS[name]
    model = build_model(variant, **{**SIZES, **fields, **more, "num_classes": 5})
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal((2, *model.input_shape)), jnp.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))["params"]
    return model, jax.tree.map(lambda leaf: (0.5 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes), inputs


@functools.cache
def computed(name, **more):
    """Returns all that is compared for a model as NumPy arrays, compiled once.

    `logits`; `embedded`, the tokens before the first block; `weights` by kind; `between`, the matrices between all
    tokens by kind, `(layers, heads, batch, tokens, tokens)`; and `matrix` and `map` by method.
    """
    model, params, inputs = made(name, **more)

    def compute(params, inputs):
        weights = attention(model, params, inputs)
        silent = {**params, "encoder": jax.tree.map(jnp.zeros_like, params["encoder"])}  # blocks that change nothing
        _, captured = model.apply({"params": silent}, inputs, train=False, capture=("tokens/0",))
        tokens = captured["tokens/0"].reshape(len(inputs), -1, model.hidden_dim)
        identity = jnp.broadcast_to(jnp.eye(tokens.shape[1]), (len(inputs), tokens.shape[1], tokens.shape[1]))
        between = {
            kind: jax.vmap(jax.vmap(lambda w, kind=kind: mix(model, kind, w, identity)))(
                jnp.moveaxis(weights[kind], -3, 1)
            )
            for kind in itertools.chain(*groups(model))
        }
        return {
            "logits": model.apply({"params": params}, inputs, train=False),
            "embedded": tokens,
            "weights": weights,
            "between": between,
            "matrix": {name: attention_matrix(model, params, inputs, **each) for name, each in METHODS.items()},
            "map": {name: attention_map(model, params, inputs, **each) for name, each in METHODS.items()},
        }

    return jax.tree.map(np.asarray, jax.jit(compute)(params, inputs))


def norm(x, params, epsilon=1e-6):
    x = (x - x.mean(-1, keepdims=True)) / (x.var(-1, keepdims=True) + epsilon) ** 0.5
    return x * params["scale"] + params["bias"]


def logits_from(model, params, x, between):
    """Computes the logits from tokens `x`, with matrices between all tokens in place of queries and keys."""
    shape = (len(x), model.num_frames, -1, x.shape[-1]) if x.shape[1] == 3 * (1 + PATCHES) else x.shape
    for layer in range(model.num_layers):
        block = params["encoder"][f"block_{layer}"]
        for group in groups(model):
            given = x
            for kind in group:
                prefix = "" if kind == last_kind(model) else f"{kind}_"
                own = block[f"{prefix}attention"]
                y = norm(given, block[f"{prefix}norm" if prefix else "attention_norm"])
                value = jnp.einsum("btc,chd->hbtd", y, own["value"]["kernel"]) + own["value"]["bias"][:, None, None]
                y = jnp.einsum("hbtd,hdc->btc", between[kind][layer] @ value, own["out"]["kernel"]) + own["out"]["bias"]
                if prefix:
                    y = y @ block[f"{prefix}out"]["kernel"] + block[f"{prefix}out"]["bias"]
                    y = y if model.cls_in_temporal_attention else y.at[:, 0].set(0)
                x = x + y
        mlp, y = block["mlp"], norm(x, block["mlp_norm"])
        y = jax.nn.gelu(y @ mlp["in"]["kernel"] + mlp["in"]["bias"], approximate=True)
        x = x + y @ mlp["out"]["kernel"] + mlp["out"]["bias"]
    if getattr(model, "pool", "cls") == "gap":
        pooled = norm(x, params["norm"])[:, model.num_prefix_tokens :].mean(1)
    else:
        x = x.reshape(shape)
        pooled = norm(x[:, :, 0].mean(1) if x.ndim == 4 else x[:, 0], params["norm"])
    return pooled @ params["head"]["kernel"] + params["head"]["bias"]


@functools.cache
def translator(architecture="encoder_decoder"):
    """Returns a Transformer, parameters without zeros and two sentences, or two pairs of them."""
    sizes = {"hidden_dim": 8, "mlp_dim": 8, "num_heads": 2, "num_layers": 2, "vocab_size": 11}
    model = build_model("transformer:base", architecture=architecture, **sizes)
    rng = np.random.default_rng(0)
    sentences = [jnp.asarray(rng.integers(1, 11, (2, length)), jnp.int32) for length in (5, 4)]
    sentences = sentences if architecture == "encoder_decoder" else sentences[:1]
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *sentences, train=False))["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.standard_normal(leaf.shape), jnp.float32), shapes)
    return model, params, sentences
