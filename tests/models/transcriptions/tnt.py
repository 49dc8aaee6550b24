"""TnT, as a loop over patches and words."""

import functools

import numpy as np

from transcriptions.layers import attention, dense, gelu_exact, layer_norm, mlp, relu

norm = functools.partial(layer_norm, epsilon=1e-5)


def plain_block(p, x):
    y = norm(p["attention_norm"], x)
    y, weights = attention(p["attention"], y, y)
    x = x + y
    y = mlp(p["mlp"], norm(p["mlp_norm"], x), gelu_exact)
    if "mlp_gate" in p:
        gate = norm(p["mlp_gate"]["norm"], y.mean(1, keepdims=True))
        gate = np.tanh(mlp(p["mlp_gate"], gate, relu))
        y = y + gate * y
    return x + y, weights


def project(p, words):
    return norm(p["norm_out"], dense(p["dense"], norm(p["norm_in"], words.reshape(*words.shape[:2], -1))))


def numpy_tnt(model, p, images):
    """Logits, and all that can be captured."""
    (gh, gw), (ph, pw), c = model.grid, model.patch_size, model.inner_hidden_dim
    stride = {6: 2, 2: 3}[model.num_words]
    kernel, patches = p["patch_embed"]["kernel"].reshape(-1, c), []
    for i in range(gh):
        for j in range(gw):
            patch = images[:, i * ph : (i + 1) * ph, j * pw : (j + 1) * pw]
            patch = np.pad(patch, ((0, 0), (3, 3), (3, 3), (0, 0)))
            words = [
                patch[:, u : u + 7, v : v + 7].reshape(len(images), -1) @ kernel + p["patch_embed"]["bias"]
                for u in range(0, ph, stride)
                for v in range(0, pw, stride)
            ]
            patches.append(np.stack(words, axis=1))
    words = np.stack(patches, axis=1)
    words = words + p.get("word_pos", np.zeros(c)).reshape(-1, c)
    x = project(p["projection"], words)
    x = x + p.get("pos_embed", np.zeros(x.shape[-1])).reshape(-1, x.shape[-1])
    token = p["cls_token"] + p.get("cls_pos", 0)
    x = np.concatenate([np.broadcast_to(token, (len(x), 1, x.shape[-1])), x], axis=1)

    captured = {}
    for i in range(model.num_layers):
        block, weights = p["encoder"][f"block_{i}"], {}
        if "inner" in block:
            words, weights["inner"] = plain_block(block["inner"], words)
            x = np.concatenate([x[:, :1], x[:, 1:] + project(block["projection"], words)], axis=1)
        x, weights["outer"] = plain_block(block["outer"], x)
        captured |= {f"attention/{i}": weights, f"tokens/{i}": x, f"words/{i}": words}
    captured["tokens/final"] = norm(p["norm"], x)
    captured["pooled"] = captured["tokens/final"][:, 0]
    return dense(p["head"], captured["pooled"]), captured
