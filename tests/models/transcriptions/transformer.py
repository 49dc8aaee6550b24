"""The Transformer."""

import functools
import math

import numpy as np

from transcriptions.layers import attention, layer_norm, mlp, relu


def numpy_stack(p, norm, x, mask, memory=None, memory_mask=None):
    captured = {}
    for i, block in enumerate(p[f"block_{i}"] for i in range(len(p))):

        def add(name, sub_layer, x, block=block, i=i):
            y = sub_layer(block[name], norm["before"](block[f"{name}_norm"], x))
            if isinstance(y, tuple):
                y, captured[f"{name}/{i}"] = y
            return norm["after"](block[f"{name}_norm"], x + y)

        x = add("attention", lambda p, x: attention(p, x, x, mask=mask), x)
        if memory is not None:
            x = add("cross_attention", lambda p, x: attention(p, x, memory, mask=memory_mask), x)
        x = add("mlp", functools.partial(mlp, activation=relu), x)
        captured[f"tokens/{i}"] = x
    return x, captured


def formula(position, channel, hidden_dim):
    angle = position / 10_000 ** (channel // 2 * 2 / hidden_dim)
    return math.cos(angle) if channel % 2 else math.sin(angle)


def numpy_embed(p, side, tokens):
    table = p.get(f"{side}_embed", p.get("embed"))["embedding"]
    width = table.shape[1]
    if f"{side}_pos_embed" in p:
        positions = p[f"{side}_pos_embed"]["embedding"][: tokens.shape[1]]
    else:
        positions = [[formula(i, c, width) for c in range(width)] for i in range(tokens.shape[1])]
    return table[tokens] * np.sqrt(width) + np.asarray(positions)


def numpy_transformer(model, p, *sequences):
    """Logits (of an encoder, its tokens), and all that can be captured; one sequence if the model takes one."""
    source, target = {"encoder": (*sequences, None), "decoder": (None, *sequences)}.get(model.architecture, sequences)
    pre, norm = model.norm == "pre", functools.partial(layer_norm, epsilon=model.norm_epsilon)
    identity = lambda p, x: x  # noqa: E731
    norms = {"before": norm, "after": identity} if pre else {"before": identity, "after": norm}
    captured, memory, real = {}, None, None
    if source is not None:
        real = np.broadcast_to((source != 0)[:, None], (len(source), 1, source.shape[1]))
        memory, found = numpy_stack(p["encoder"], norms, numpy_embed(p, "source", source), real)
        memory = norm(p["encoder_norm"], memory) if pre else memory
        captured |= {f"encoder/{name}": value for name, value in (found | {"tokens/final": memory}).items()}
    if target is None:
        return memory, captured
    causal = np.tril(np.ones((target.shape[1],) * 2, bool))
    x, found = numpy_stack(p["decoder"], norms, numpy_embed(p, "target", target), causal, memory, real)
    x = norm(p["decoder_norm"], x) if pre else x
    captured |= {f"decoder/{name}": value for name, value in (found | {"tokens/final": x}).items()}
    return x @ (p["head"]["kernel"] if "head" in p else p["embed"]["embedding"].T), captured
