"""The keys `config.model.*`: what the fields of the models mean, and their legal values.

Which fields there are, and their types, is read from the modules: see `vit_jax/config/families.py`.
"""

import operator
from collections.abc import Iterator

from vit_jax.config.families import FAMILIES, module_fields
from vit_jax.config.forms import SIDES, Choice, Form, Items, Number, Whole
from vit_jax.config.key import Key

_WIDTH, _HEADS = Whole(1, 65_536), Whole(1, 1_024)
_RATE = Number("[0, 1)")

# Fields of the models that are not keys: the data, the task and `dtype` determine them.
DERIVED_FIELDS = (
    "architecture", "image_size", "in_channels", "num_classes", "num_frames", "pad_id", "param_dtype", "vocab_size",
)  # fmt: skip
_FAMILY_NAMES = {"transformer": "Transformer", "vit": "ViT", "tnt": "TnT", "timesformer": "TimeSformer"}
# The meaning of each field of the models; with the legal values, unless the type says as much.
_MODEL_MEANINGS: dict[str, str | tuple[str, Form]] = {
    "patch_size": ("patch size in pixels", Items(Whole(1, 4_096), "(height, width)", length=2)),
    "hidden_dim": ("token width", _WIDTH),
    "mlp_dim": ("width of the MLP's hidden layer", Whole(1, 2**20)),
    "num_layers": ("number of blocks", Whole(1, 1_000)),
    "num_heads": ("number of attention heads", _HEADS),
    "pool": (
        "how tokens are pooled",
        Choice(cls="class token", gap="global average", map="attention pooling"),
    ),
    "pos_embed": (
        "position embedding",
        Choice(
            learned="not TimeSformer",
            learned2d="ViT",
            sincos2d="ViT",
            relative="ViT",
            space_time="TimeSformer",
            space="TimeSformer",
            sinusoidal="Transformer",
            none="not Transformer",
        ),
    ),
    "unpooled_class_token": "add a class token although pool is gap or map (MAE's fine-tuned models)",
    "distillation_token": "add DeiT's distillation token, with a second head; the logits are the mean of both",
    "num_registers": ("number of register tokens: learned tokens that are not pooled", Whole(0, 1_000)),
    "prefix_pos_embed": "learn positions of the class, distillation and register tokens as well (DeiT III: false)",
    "pos_embed_at": (
        "where positions are added (ViT paper, Table 8)",
        Choice("stem", "every_layer", "every_layer_shared"),
    ),
    "patch_bias": "add a bias in the patch embedding",
    "stem_norm": "add a layer norm before the first block (CLIP)",
    "final_norm": (
        "where the last layer norm is",
        Choice("before_pool", "none", after_pool="MAE's fine-tuned models"),
    ),
    "representation_dim": ("width of the tanh layer before the head; no such layer if unset", _WIDTH),
    "resnet_stages": (
        "hybrid: number of ResNet units in each stage before the patches",
        Items(Whole(1, 1_000), "a tuple such as (3, 4, 9)", or_empty=True),
    ),
    "resnet_width": ("hybrid: channels of the ResNet's root convolution", Whole(1, 4_096)),
    "resnet_flavour": ("hybrid: whose details the ResNet has", Choice("google", "timm")),
    "inner_hidden_dim": ("width of a word token", _WIDTH),
    "inner_mlp_dim": ("width of the hidden layer in the words' MLP", Whole(1, 2**20)),
    "inner_num_heads": ("number of attention heads in the words' attention", _HEADS),
    "num_words": ("number of words per patch", Whole(1, 4_096)),
    "tnt_layers": (
        "layers, counted from 0, that have an inner block; all layers if unset",
        Items(Whole(0, 999), "a tuple of increasing numbers such as (0, 4)", or_empty=True, order=operator.lt),
    ),
    "word_pos_embed": ("position embedding of the words", Choice("learned", "none")),
    "squeeze_excitation": "add a rescaled copy of the outer MLP's output, by squeeze-and-excitation",
    "attention_type": (
        "in which order tokens attend to each other in space and time",
        Choice("space_only", "joint_space_time", "divided_space_time", "sparse_local_global", "axial"),
    ),
    "divided_order": ("order of divided attention", Choice("time_first", "space_first", "parallel")),
    "cls_in_temporal_attention": "let the class token take part in temporal attention",
    "weight_init": ("initial values", Choice(authors="suits training that starts from an image model", scratch="")),
    "norm": ("where the layer norms are", Choice(post="after each sub-layer", pre="before each sub-layer")),
    "qk_head_dim": ("width of the queries and keys of one head; hidden_dim / num_heads if unset", _WIDTH),
    "v_head_dim": ("width of the values of one head; hidden_dim / num_heads if unset", _WIDTH),
    "out_bias": "add a bias in the attention's output projection",
    "share_embeddings": "use one matrix for the source and target embeddings and for the logits",
    "max_length": ("maximum number of tokens, for learned positions", Whole(1, 2**20)),
    "gelu": ("form of the GELU", Choice("exact", tanh="google-research", quick="CLIP")),
    "qkv_bias": "add a bias in the query, key and value projections",
    "norm_epsilon": ("epsilon of the layer norms", Number("(0, 1]")),
    "layer_scale_init": ("initial value of layer scale; no layer scale if unset", Number("[0, inf)")),
    "dropout_rate": ("dropout probability after the position embedding, after attention and in the MLP", _RATE),
    "attention_dropout_rate": ("dropout probability of the attention weights", _RATE),
    "drop_path_rate": (
        "drop probability of the residual branches in the last block; rises linearly from 0 in the first",
        _RATE,
    ),
    "head_bias_init": ("initial bias of the head", Number()),
    "scan_layers": "compile one block and loop over the layers, which takes less memory",
    "remat": (
        "what a block keeps for the backward pass, which recomputes the rest to save memory",
        Choice(
            none="everything",
            full="only its input",
            dots="products with kernels",
            attention="outputs of attention",
            dots_attention="both",
            branches="only its input, and computes each residual branch a second time, one after the other",
        ),
    ),
    "attention_kernel": (
        "implementation of attention",
        Choice("auto", "reference", "xla", "cudnn", "chunked", "packed", "mosaic", "triton"),
    ),
}


def field_forms() -> dict[str, Form]:
    """Returns the legal values of the sizes and rates of models, those of the data included.

    Each module checks the choices of words itself, because they depend on the family.
    """
    forms = {name: declared[1] for name, declared in _MODEL_MEANINGS.items() if not isinstance(declared, str)}
    forms |= {"image_size": SIDES, "in_channels": Whole(1), "num_classes": Whole(1), "num_frames": Whole(1)}
    return {name: form for name, form in forms.items() if isinstance(form, Whole | Number | Items)}


def model_keys() -> Iterator[tuple[str, Key]]:
    """Yields a key for each field of the families' modules. The meaning names the families if only some have it."""
    families = {family: module_fields(family) for family in FAMILIES}
    types = {field: kind for fields in families.values() for field, kind in fields.items()}
    for field in (*_MODEL_MEANINGS, *sorted(types.keys() - _MODEL_MEANINGS.keys())):
        if field in types and field not in (*DERIVED_FIELDS, "dtype"):
            having = [_FAMILY_NAMES[family] for family, fields in families.items() if field in fields]
            suffix = f" ({', '.join(having)} only)" if len(having) < len(families) else ""
            declared = _MODEL_MEANINGS.get(field, "")
            meaning, form = (declared, None) if isinstance(declared, str) else declared
            yield field, Key(types[field], meaning + suffix, form)
