"""The Transformer and its blocks against torch, with random parameters, post-norm and pre-norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import build_model
from vit_jax.models.blocks.transformer import Block, Stream
from vit_jax.models.transformer import sinusoids

pytestmark = pytest.mark.parity
norms = pytest.mark.parametrize("norm", ["post", "pre"])
SIZES = {"vocab_size": 11, "hidden_dim": 8, "mlp_dim": 12, "num_layers": 2, "num_heads": 2}
SOURCE = np.array([[3, 4, 9, 5, 0, 0], [7, 1, 1, 6, 10, 8]])
TARGET = np.array([[1, 8, 3, 3, 10], [1, 4, 2, 7, 7]])
REAL = SOURCE != 0


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def random_params(randomised):
    """Fills a tree of shapes: the scales of the norms near 1."""

    def fill(shapes, scale=0.3):
        params = randomised(shapes, scale)
        return jax.tree.map_with_path(lambda path, leaf: leaf + (path[-1].key == "scale"), params)

    return fill


def attention_to_torch(p):
    """Torch keeps query, key and value as one matrix, and matrices as (out, in)."""
    width = p["out"]["bias"].shape[0]
    inputs = [p[name] for name in ("query", "key", "value")]
    return {
        "in_proj_weight": np.concatenate([np.reshape(x["kernel"], (width, -1)).T for x in inputs]),
        "in_proj_bias": np.concatenate([np.reshape(x["bias"], -1) for x in inputs]),
        "out_proj.weight": np.reshape(p["out"]["kernel"], (-1, width)).T,
        "out_proj.bias": p["out"]["bias"],
    }


def block_to_torch(p):
    """Names and layout of torch's layers; the values may be parameters or their gradients."""
    parts = {"self_attn": attention_to_torch(p["attention"])}
    norms = ["attention_norm", "mlp_norm"]
    if "cross_attention" in p:
        parts["multihead_attn"] = attention_to_torch(p["cross_attention"])
        norms.insert(1, "cross_attention_norm")
    for name, layer in (("linear1", p["mlp"]["in"]), ("linear2", p["mlp"]["out"])):
        parts[name] = {"weight": np.transpose(layer["kernel"]), "bias": layer["bias"]}
    for i, name in enumerate(norms, start=1):
        parts[f"norm{i}"] = {"weight": p[name]["scale"], "bias": p[name]["bias"]}
    return {f"{part}.{name}": np.asarray(x) for part, layer in parts.items() for name, x in layer.items()}


def model_to_torch(params):
    tensors = {}
    for side in ("encoder", "decoder"):
        for i in range(len(params[side])):
            block = block_to_torch(params[side][f"block_{i}"])
            tensors |= {f"{side}.layers.{i}.{name}": x for name, x in block.items()}
        if norm := params.get(f"{side}_norm"):
            tensors |= {f"{side}.norm.weight": np.asarray(norm["scale"]), f"{side}.norm.bias": np.asarray(norm["bias"])}
    return tensors


def fill(torch, module, tensors):
    module.load_state_dict({name: torch.tensor(x) for name, x in tensors.items()}, strict=True)
    return module


def assert_same(torch, ours, theirs, tolerance):
    """Of values, and of gradients by name as one long vector: (ours, ours by name), (theirs, a filled module)."""
    (out, gradients), (expected, module) = ours, theirs
    expected = expected.detach().numpy()
    np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    expected = {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}
    assert gradients.keys() == expected.keys()
    got, expected = (np.concatenate([np.ravel(tree[name]) for name in expected]) for tree in (gradients, expected))
    assert np.linalg.norm(got - expected) < tolerance * np.linalg.norm(expected)


@norms
@pytest.mark.parametrize("with_memory", [False, True], ids=["encoder", "decoder"])
def test_a_block_is_that_of_torch(with_memory, norm, torch, random_params):
    rng = np.random.default_rng(0)
    x, memory, weights = (rng.standard_normal((2, length, 8)).astype(np.float32) for length in (5, 6, 5))
    options = {"norm": norm, "qkv_bias": True, "out_bias": True, "is_causal": with_memory}
    block = Block(2, 12, **options)
    real = jnp.asarray(REAL)[:, None, None, :]
    stream = (
        Stream(jnp.asarray(x), None, jnp.asarray(memory), real)
        if with_memory
        else Stream(jnp.asarray(x), real[..., :5])
    )
    params = random_params(jax.eval_shape(lambda: block.init(jax.random.key(0), stream, train=True))["params"])

    @jax.jit
    def run(params):
        out, pull_back = jax.vjp(lambda p: block.apply({"params": p}, stream, train=True)[0].tokens, params)
        return out, pull_back(jnp.asarray(weights))[0]

    options = {"dropout": 0.0, "layer_norm_eps": 1e-6, "batch_first": True, "norm_first": norm == "pre"}
    kind = torch.nn.TransformerDecoderLayer if with_memory else torch.nn.TransformerEncoderLayer
    layer = fill(torch, kind(8, 2, 12, **options), block_to_torch(params))
    padding = torch.from_numpy(~REAL)
    if with_memory:
        causal = torch.nn.Transformer.generate_square_subsequent_mask(5) < 0
        masks = {"tgt_mask": causal, "memory_key_padding_mask": padding}
        expected = layer(torch.from_numpy(x), torch.from_numpy(memory), **masks)
    else:
        expected = layer(torch.from_numpy(x), src_key_padding_mask=padding[:, :5])
    (expected * torch.from_numpy(weights)).sum().backward()
    out, gradients = run(params)
    assert_same(torch, (out, block_to_torch(gradients)), (expected, layer), 1e-5)


def torch_transformer(torch, model, params):
    """Torch's stacks, and its embeddings; returns the logits and both modules."""
    options = {"dropout": 0.0, "layer_norm_eps": 1e-6, "batch_first": True, "norm_first": model.norm == "pre"}
    sizes = model.hidden_dim, model.num_heads, model.mlp_dim

    def stack(side):
        layer = getattr(torch.nn, f"Transformer{side}Layer")(*sizes, **options)
        last = torch.nn.LayerNorm(model.hidden_dim, eps=1e-6) if model.norm == "pre" else None
        return getattr(torch.nn, f"Transformer{side}")(layer, model.num_layers, last)

    custom = {"custom_encoder": stack("Encoder"), "custom_decoder": stack("Decoder"), "batch_first": True}
    module = fill(torch, torch.nn.Transformer(*sizes[:2], **custom), model_to_torch(params))
    module.embed = torch.nn.Embedding(model.vocab_size, model.hidden_dim)
    module.embed.weight.data = torch.tensor(np.asarray(params["embed"]["embedding"]))

    def embed(tokens):
        positions = sinusoids(jnp.arange(tokens.shape[1]), model.hidden_dim)
        return module.embed(torch.from_numpy(tokens)) * model.hidden_dim**0.5 + torch.tensor(np.asarray(positions))

    padding = torch.from_numpy(~REAL)
    causal = module.generate_square_subsequent_mask(TARGET.shape[1]) < 0
    masks = {"tgt_mask": causal, "src_key_padding_mask": padding, "memory_key_padding_mask": padding}
    return module(embed(SOURCE), embed(TARGET), **masks) @ module.embed.weight.T, module


@norms
@pytest.mark.parametrize(
    ("variant", "sizes", "scale"),
    [("base", SIZES, 0.3), pytest.param("base", {}, 0.03, marks=pytest.mark.slow)],
    ids=["tiny", "published"],
)
def test_the_model_is_that_of_torch(variant, sizes, scale, norm, torch, random_params):
    model = build_model(f"transformer:{variant}", norm=norm, qkv_bias=True, out_bias=True, dropout_rate=0.0, **sizes)
    source, target = (jnp.asarray(tokens, jnp.int32) for tokens in (SOURCE, TARGET))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), source, target, train=True))["params"]
    params = random_params(shapes, scale)
    weights = np.random.default_rng(1).standard_normal((*TARGET.shape, model.vocab_size)).astype(np.float32)

    @jax.jit
    def run(params):
        out, pull_back = jax.vjp(lambda p: model.apply({"params": p}, source, target, train=True), params)
        return out, pull_back(jnp.asarray(weights))[0]

    expected, module = torch_transformer(torch, model, params)
    (expected * torch.from_numpy(weights)).sum().backward()
    out, gradients = run(params)
    by_name = model_to_torch(gradients) | {"embed.weight": np.asarray(gradients["embed"]["embedding"])}
    assert_same(torch, (out, by_name), (expected, module), 1e-4)
