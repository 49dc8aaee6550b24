"""ViT, and what the transcriptions of vision models share."""

import numpy as np

from transcriptions.layers import GELUS, attention, dense, layer_norm, mlp


def positions_of(p, grid):
    """Of the parameters of a model, or of a block: (tokens, hidden_dim); 0 if they have none."""
    if not {"pos_embed", "pos_embed_x"} & p.keys():
        return 0
    positions = [p["cls_pos"]]
    for i, j in np.ndindex(*grid):
        positions.append(p["pos_embed"][i, j] if "pos_embed" in p else [*p["pos_embed_x"][j], *p["pos_embed_y"][i]])
    return np.stack(positions)


def numpy_vit(model, p, images):
    """Logits, and all that can be captured, of a ViT that pools its class token."""
    gelu, epsilon, shared = GELUS[model.gelu], model.norm_epsilon, model.pos_embed_at == "every_layer_shared"
    ph, pw = model.patch_size
    patch_embed = {**p["patch_embed"], "kernel": p["patch_embed"]["kernel"].reshape(ph * pw * 3, -1)}
    tokens = [np.broadcast_to(p["cls_token"], (len(images), model.hidden_dim))]
    for i, j in np.ndindex(*model.grid):
        patch = images[:, i * ph : (i + 1) * ph, j * pw : (j + 1) * pw].reshape(len(images), -1)
        tokens.append(dense(patch_embed, patch))
    x, captured = np.stack(tokens, axis=1), {}
    if not shared:
        x = x + positions_of(p, model.grid)
    for i in range(model.num_layers):
        block = p["encoder"][f"block_{i}"]
        attention_scale, mlp_scale = (block.get(f"{k}_scale", {"scale": 1})["scale"] for k in ("attention", "mlp"))
        x = x + positions_of(p if shared else block, model.grid)
        y = layer_norm(block["attention_norm"], x, epsilon)
        y, captured[f"attention/{i}"] = attention(block["attention"], y, y, relative=block.get("relative_embed"))
        x = x + attention_scale * y
        x = x + mlp_scale * mlp(block["mlp"], layer_norm(block["mlp_norm"], x, epsilon), gelu)
        captured[f"tokens/{i}"] = x
    captured["tokens/final"] = layer_norm(p["norm"], x, epsilon)
    captured["pooled"] = x = captured["tokens/final"][:, 0]
    if "representation" in p:
        x = np.tanh(dense(p["representation"], x))
    return dense(p["head"], x), captured
