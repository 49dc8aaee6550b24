"""config.json of Hugging Face: its keys, their defaults, and the values that our models cannot compute with.

A key that determines the function is read or refused by name. If it is missing, it has the default of transformers, or
has to be given. Keys that no version of transformers uses for these models do not change
what transformers computes; they are ignored, and the report names them, because folders often hold notes of their own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.errors import UserError
from vit_jax.pretrained.names import Config, Tensors, pair

_ACTIVATIONS = {
    "gelu": "exact",
    "gelu_python": "exact",
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "gelu_accurate": "tanh",
    "gelu_python_tanh": "tanh",
    "quick_gelu": "quick",
}
# keys that determine the function, or agree with the tensors
_READ = (
    *("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("layer_norm_eps", "image_size", "patch_size", "num_channels", "qkv_bias", "pooler_act", "pooler_output_size"),
    *("attention_type", "num_frames", "mlp_ratio", "use_swiglu_ffn", "num_register_tokens", "head_dim"),
    *("pruned_heads", "quantization_config", "auto_map", "id2label"),
)
# keys of training, of other heads, and of `PretrainedConfig` that do not change the features and the logits
_NOT_THE_FUNCTION = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate", "initializer_range"),
    *("layerscale_value", "encoder_stride", "mask_ratio", "norm_pix_loss", "use_mask_token", "problem_type"),
    *("decoder_hidden_size", "decoder_intermediate_size", "decoder_num_attention_heads"),
    *("decoder_num_hidden_layers", "out_features", "out_indices", "stage_names", "apply_layernorm"),
    *("reshape_hidden_states", "architectures", "transformers_version", "torch_dtype", "dtype", "label2id"),
    *("num_labels", "_name_or_path", "_commit_hash", "name_or_path", "_num_labels", "finetuning_task", "task"),
    *("task_specific_params", "tokenizer_class", "prefix", "return_dict", "output_attentions"),
    *("output_hidden_states", "torchscript", "use_bfloat16", "tf_legacy_loss", "use_cache"),
    *("_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "gradient_checkpointing"),
    *("chunk_size_feed_forward", "tie_word_embeddings", "tie_encoder_decoder", "is_encoder_decoder", "is_decoder"),
    *("add_cross_attention", "cross_attention_hidden_size", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("sep_token_id", "decoder_start_token_id", "max_length", "min_length", "do_sample", "early_stopping"),
    *("num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p"),
    *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id"),
    *("forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
    *("begin_suppress_tokens", "preprocessor_config", "video_preprocessor_config"),  # files in the same folder
)


def refuse(config: Config, key: str, reason: str) -> UserError:
    """Returns the error for a value with which our models cannot compute."""
    return UserError(f"config.json: {key} is {config[key]!r}, but {reason}")


def common_fields(config: Config, *, norm_epsilon: float, hidden_dim: int) -> dict[str, Any]:
    """Returns the fields that no tensor says and that all models share.

    The number of heads and the image size have no default: what the config does not say is left out.

    Raises:
      UserError: A key has a value with which our models cannot compute; the message names it.
    """
    for key, reason in {
        "pruned_heads": "blocks whose numbers of heads differ are not supported",
        "quantization_config": "quantized weights are not supported",
        "auto_map": "code in a folder is not run, and what it computes is unknown",
    }.items():
        if config.get(key):
            raise refuse(config, key, reason)
    fields = {"gelu": read_gelu(config), "norm_epsilon": config.get("layer_norm_eps", norm_epsilon)}
    if not isinstance(fields["norm_epsilon"], (int, float)) or not fields["norm_epsilon"] > 0:
        raise refuse(config, "layer_norm_eps", "a positive number is needed")
    if (heads := config.get("num_attention_heads")) is not None:
        if not isinstance(heads, int) or heads < 1 or hidden_dim % heads:
            raise refuse(config, "num_attention_heads", f"a divisor of hidden_size, {hidden_dim}, is needed")
        if (head_dim := config.get("head_dim")) and head_dim * heads != hidden_dim:
            raise refuse(config, "head_dim", f"{heads} heads of together {hidden_dim} channels are needed")
        fields["num_heads"] = heads
    if (size := config.get("image_size")) is not None:
        sides = [size] if isinstance(size, int) else size
        if not isinstance(sides, Sequence) or not all(type(side) is int and side > 0 for side in sides):
            raise refuse(config, "image_size", "a size in pixels is needed")
        fields["image_size"] = pair(size)
    return fields


def check_agreement(config: Config, fields: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    """Checks what the config says about the shapes of the tensors.

    Args:
      keys: Keys of the config, by the field that the tensors determine.

    Raises:
      UserError: The two differ, so that transformers would leave out tensors or initialise some; the message names the
        key.
    """
    for field, key in keys.items():
        said, held = config.get(key), fields[field]
        if said is None:
            continue
        same = pair(said) == held if isinstance(held, tuple) and not isinstance(said, str) else said == held
        if not same:
            raise UserError(f"config.json: {key} is {said!r}, but the tensors belong to {held!r}")


SHAPES = {
    "hidden_dim": "hidden_size",
    "mlp_dim": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "in_channels": "num_channels",
    "patch_size": "patch_size",
    "qkv_bias": "qkv_bias",
}


def notes(tensors: Tensors, config: Config) -> tuple[str, ...]:
    """Returns lines for a report: keys that nothing here knows."""
    unknown = sorted(key for key, value in config.items() if key not in (*_READ, *_NOT_THE_FUNCTION) and value)
    return (f"config.json: ignored keys that this model does not have: {', '.join(unknown)}",) if unknown else ()


def read_gelu(config: Config) -> str:
    """Returns the `gelu` that corresponds to `hidden_act`.

    Raises:
      UserError: `hidden_act` is not a GELU that we have.
    """
    activation = config.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise refuse(config, "hidden_act", f"only {', '.join(_ACTIVATIONS)} are supported")
    return _ACTIVATIONS[activation]


def write_gelu(gelu: str) -> str:
    """Returns the `hidden_act` that corresponds to this `gelu`."""
    return next(activation for activation, meant in _ACTIVATIONS.items() if meant == gelu)
