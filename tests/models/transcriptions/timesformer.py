"""TimeSformer: attention over all tokens, with a mask of the sets that the paper describes."""

import functools
import itertools
import math

import numpy as np

from transcriptions.layers import GELUS, dense, layer_norm, mlp
from vit_jax.models.blocks.timesformer import ATTENTIONS


def window(place, side):
    """The half of the rows, or columns, that are nearest."""
    return sorted(range(side), key=lambda other: (abs(other - place), other))[: math.ceil(side / 2)]


def neighbours(attention, place, grid):
    t, y, x = place
    rows, columns = window(y, grid[1]), window(x, grid[2])
    sees = {
        "joint": lambda a, b, c: True,
        "spatial": lambda a, b, c: a == t,
        "temporal": lambda a, b, c: (b, c) == (y, x),
        "width": lambda a, b, c: (a, b) == (t, y),
        "height": lambda a, b, c: (a, c) == (t, x),
        "local": lambda a, b, c: b in rows and c in columns,
        "global": lambda a, b, c: (a - t) % 2 == (b - y) % 2 == (c - x) % 2 == 0,
    }[attention]
    return tuple(i for i, other in enumerate(itertools.product(*map(range, grid))) if sees(*other))


def all_neighbours(attention, grid):
    return [neighbours(attention, place, grid) for place in itertools.product(*map(range, grid))]


def masked_attention(p, x, attention, grid, has_cls):
    """New tokens `(batch, 1 + patches, hidden_dim)`, and the weights of the patches on all tokens.

    The class token attends once to each of the neighbourhoods, and takes the mean; to all at once where they overlap.
    """
    seen = all_neighbours(attention, grid)
    apart = [tuple(range(len(seen)))] if attention == "local" else sorted(set(seen))
    rows = [(1 + i, patches) for i, patches in enumerate(seen)] + [(0, patches) for patches in apart if has_cls]
    mask = np.zeros((len(rows), x.shape[1]), bool)
    mask[:, 0] = has_cls
    for row, (_, patches) in enumerate(rows):
        mask[row, [1 + i for i in patches]] = True
    query, key, value = (
        np.einsum("bnd,dhe->bhne", x, p[name]["kernel"]) + (p[name]["bias"][:, None] if "bias" in p[name] else 0)
        for name in ("query", "key", "value")
    )
    query = query[:, :, [token for token, _ in rows]]
    weights = np.where(mask, np.exp(query @ key.swapaxes(2, 3) / np.sqrt(query.shape[-1])), 0)
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bhne,hed->bnd", weights @ value, p["out"]["kernel"]) + p["out"]["bias"]
    new = np.zeros_like(x)
    new[:, 1:] = out[:, : len(seen)]
    if has_cls:
        new[:, 0] = out[:, len(seen) :].mean(axis=1)
    return new, weights[:, :, : len(seen)]


def numpy_block(p, x, grid, *, attention_type, divided_order, cls_in_temporal_attention, gelu, epsilon):
    *before, last = ATTENTIONS[attention_type]
    branches, weights = [], {}
    for name in before:

        def branch(x, name=name):
            own = {part: p[f"{name}_{part}"] for part in ("norm", "attention", "out")}
            normed = layer_norm(own["norm"], x, epsilon)
            y, weights[name] = masked_attention(own["attention"], normed, name, grid, cls_in_temporal_attention)
            y = dense(own["out"], y)
            if not cls_in_temporal_attention:
                y[:, 0] = 0
            return y

        branches.append(branch)

    def last_branch(x):
        y, weights[last] = masked_attention(
            p["attention"], layer_norm(p["attention_norm"], x, epsilon), last, grid, True
        )
        return y

    branches.append(last_branch)
    if divided_order == "parallel":
        x = x + sum(branch(x) for branch in branches)
    else:
        for branch in reversed(branches) if divided_order == "space_first" else branches:
            x = x + branch(x)
    return x + mlp(p["mlp"], layer_norm(p["mlp_norm"], x, epsilon), gelu), weights


def numpy_timesformer(model, p, videos):
    """Logits, all that can be captured but attention, and the weights of attention of every block."""
    gelu, epsilon = GELUS[model.gelu], model.norm_epsilon
    switches = {name: getattr(model, name) for name in ("attention_type", "divided_order", "cls_in_temporal_attention")}
    (ph, pw), (rows, columns), by_frame = model.patch_size, model.grid, model.attention_type == "space_only"
    kernel = p["patch_embed"]["kernel"].reshape(ph * pw * 3, -1)
    zeros = np.zeros((model.num_frames, 1, 1, kernel.shape[1]))
    x = np.empty((len(videos), model.num_frames, rows, columns, kernel.shape[1]))
    for i, j in itertools.product(range(rows), range(columns)):
        patch = videos[:, :, i * ph : (i + 1) * ph, j * pw : (j + 1) * pw]
        x[:, :, i, j] = patch.reshape(*patch.shape[:2], -1) @ kernel + p["patch_embed"]["bias"]
    x += p.get("pos_embed", 0) + (p["time_embed"][:, None, None] if "time_embed" in p else zeros)
    grid = (1 if by_frame else model.num_frames, rows, columns)
    x = x.reshape(-1, math.prod(grid), x.shape[-1])
    x = np.concatenate([np.broadcast_to(p["cls_token"] + p.get("cls_pos", 0), (len(x), 1, x.shape[-1])), x], axis=1)

    def apart(x):
        return x.reshape(len(videos), model.num_frames, *x.shape[1:]) if by_frame else x

    captured, weights = {}, {}
    for i in range(model.num_layers):
        block = p["encoder"][f"block_{i}"]
        x, weights[i] = numpy_block(block, x, grid, gelu=gelu, epsilon=epsilon, **switches)
        captured[f"tokens/{i}"] = apart(x)
    x = apart(x)
    final = functools.partial(layer_norm, p["norm"], epsilon=epsilon)
    frames = x[:, :, 0] if by_frame else x[:, 1:].reshape(len(x), model.num_frames, -1, x.shape[-1]).mean(axis=2)
    captured["tokens/final"] = final(x)
    captured["pooled"] = final(frames.mean(axis=1) if by_frame else x[:, 0])
    captured["frame_logits"] = dense(p["head"], final(frames))
    return dense(p["head"], captured["pooled"]), captured, weights
