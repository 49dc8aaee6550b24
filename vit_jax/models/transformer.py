"""Transformer: Attention Is All You Need (arXiv:1706.03762), with its encoder and its decoder alone."""

import functools
from collections.abc import Collection
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vit_jax.models.attention import KERNELS, KeyValues
from vit_jax.models.dense import Dense
from vit_jax.models.layers import REMAT, BlockStack, check_choices
from vit_jax.models.transformer_block import Block, Stream

# Table 3
VARIANTS = {
    "base": {"num_layers": 6, "hidden_dim": 512, "mlp_dim": 2048, "num_heads": 8, "dropout_rate": 0.1},
    "big": {"num_layers": 6, "hidden_dim": 1024, "mlp_dim": 4096, "num_heads": 16, "dropout_rate": 0.3},
}
ARCHITECTURES = ("encoder_decoder", "encoder", "decoder")
NORMS = ("post", "pre")
POSITIONS = ("sinusoidal", "learned")


def sinusoids(positions: Int[Array, "*tokens"], hidden_dim: int) -> Float[Array, "*tokens hidden_dim"]:
    """Sinusoidal positions (section 3.5).

    Channel 2i is sin(position / 10000^(2i / hidden_dim)), channel 2i + 1 the cosine of the same. Deviation:
    tensor2tensor has all sines before all cosines, another order of the channels, and stretches the wavelengths so
    that the longest is 10000 * 2 pi exactly.
    """
    angles = positions[..., None] * 10_000.0 ** (-jnp.arange(0, hidden_dim, 2) / hidden_dim)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*positions.shape, hidden_dim)


class Cache(NamedTuple):
    """What `Transformer.step` needs of the past.

    Attributes:
      past: Keys and values of the tokens so far, one a layer, `(batch, beams, length, heads, head_dim)`.
      memory: Those of the encoder's output, one a layer, `(batch, source, heads, head_dim)`, or None.
      memory_mask: True where the source is no padding, `(batch, 1, 1, source)`, or None.
    """

    past: tuple[KeyValues, ...]
    memory: tuple[KeyValues | None, ...]
    memory_mask: Bool[Array, "batch 1 1 source"] | None


class Transformer(nn.Module):
    """Transformer of token ids: encoder and decoder, or one of them alone.

    Source tokens equal to `pad_id` are masked wherever they could be attended to. Of the target causality alone is
    asked: padding must come last, and what is computed there must be ignored.
    Initialised as tensor2tensor: Xavier-uniform kernels, embeddings N(0, hidden_dim^-0.5), biases zero; learned
    positions as the embeddings, which is fairseq's choice. The paper says nothing of it.
    Deviation: tensor2tensor shifts the target and begins it with a zero vector; here the target begins with a token
    of its own, and the logits at a place predict the token after it.

    Attributes:
      architecture: `encoder_decoder`; `encoder`, which returns its tokens; `decoder`, a language model.
      vocab_size: Of source and target; also the width of the logits.
      max_length: Tokens at most, with learned positions; sinusoidal ones have no end.
      qk_head_dim, v_head_dim: `hidden_dim // num_heads` if None.
      norm: `post` (as published), or `pre`, with one more norm after the last block (as tensor2tensor's later presets).
      pos_embed: `sinusoidal` (see `sinusoids`), or `learned`, a table for the source and one for the target.
      share_embeddings: One matrix embeds source and target and, transposed, gives the logits (section 3.4);
        else there are three. In the embeddings it is multiplied by sqrt(hidden_dim).
      qkv_bias, out_bias: Of the attention; the paper's formulas and tensor2tensor have none.
      dropout_rate: Of the sums of embeddings and positions, and of each sub-layer's output (section 5.4).
      attention_dropout_rate: Of the attention weights; the paper has none.
      scan_layers, remat: See `BlockStack`.
      attention_kernel: See `dot_product_attention`.
      dtype, param_dtype: Of the computation (layer norms and softmax stay float32 inside) and of the parameters.
    """

    architecture: str = "encoder_decoder"
    vocab_size: int = 37_000
    pad_id: int = 0
    max_length: int = 256
    hidden_dim: int = 512
    mlp_dim: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    qk_head_dim: int | None = None
    v_head_dim: int | None = None
    norm: str = "post"
    pos_embed: str = "sinusoidal"
    share_embeddings: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.0
    scan_layers: bool = False
    remat: str = "none"
    attention_kernel: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        normal = nn.initializers.normal(self.hidden_dim**-0.5)
        embed = functools.partial(nn.Embed, features=self.hidden_dim, embedding_init=normal, **types)
        self.embed, self.source_embed, self.target_embed = (embed(self.vocab_size) for _ in range(3))
        self.source_pos_embed, self.target_pos_embed = (embed(self.max_length) for _ in range(2))
        self.head = Dense(self.vocab_size, use_bias=False, kernel_init=nn.initializers.xavier_uniform(), **types)
        self.dropout = nn.Dropout(self.dropout_rate)

        block = functools.partial(
            Block,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            qk_head_dim=self.qk_head_dim,
            v_head_dim=self.v_head_dim,
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
            norm=self.norm,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            norm_epsilon=self.norm_epsilon,
            attention_kernel=self.attention_kernel,
            **types,
        )
        stack = functools.partial(
            BlockStack, num_layers=self.num_layers, scan_layers=self.scan_layers, remat=self.remat
        )
        self.encoder, self.decoder = stack(block), stack(functools.partial(block, is_causal=True))
        self.encoder_norm, self.decoder_norm = (nn.LayerNorm(epsilon=self.norm_epsilon, **types) for _ in range(2))

    def __call__(
        self,
        source: Int[Array, "batch source"],
        target: Int[Array, "batch target"] | None = None,
        *,
        train: bool,
        capture: Collection[str] = (),
    ) -> Any:
        """Returns the logits `(batch, target, vocab_size)`, in float32 or wider; of an encoder its tokens.

        An encoder and a decoder alone are given one sequence, the first argument.
        With `capture`, a pair of the result and a dict of what it names, for layer i of `encoder` and `decoder`:
        `encoder/attention/i`, its weights `(batch, num_heads, source, source)`, `decoder/attention/i` and
        `decoder/cross_attention/i` `(batch, num_heads, target, source)` likewise; `encoder/tokens/i`, its output
        `(batch, source, hidden_dim)`; `encoder/tokens/final`, that of the whole stack.

        Raises:
          ValueError: There is a sequence too many or too few, one is longer than `max_length`, or a name in
            `capture` is unknown.
        """
        if (target is None) == (self.architecture == "encoder_decoder"):
            takes = "source and target" if target is None else "one sequence"
            raise ValueError(f"architecture={self.architecture!r} takes {takes}")
        x, mask, captured = None, None, {}
        if self.architecture != "decoder":
            mask = self._mask(source)
            x, captured = self._encode(source, train=train, capture=capture)
        if self.architecture != "encoder":
            target = source if target is None else target
            stream = Stream(self._embed_tokens("target", target, train=train), memory=x, memory_mask=mask)
            x, more = self._run("decoder", stream, train=train, capture=capture)
            x, captured = self._logits(x), captured | more
        if unknown := set(capture) - set(captured):
            raise ValueError(f"capture names {sorted(unknown)}; layers are 0 to {self.num_layers - 1}")
        return (x, {name: captured[name] for name in capture}) if capture else x

    def start(self, source: Int[Array, "batch source"] | None, shape: tuple[int, int, int]) -> Cache:
        """Reads the source, if there is an encoder, and returns what `step` needs to decode from it.

        Args:
          shape: (batch, beams, length): of the sequences to decode.
        """
        self._check_length(shape[-1])
        memory = mask = None
        if source is not None:
            mask = self._mask(source)
            memory, _ = self._encode(source, train=False)
        past, memories = zip(*(block.start(memory, shape) for block in self._decoder_blocks()), strict=True)
        return Cache(past, memories, mask)

    def step(
        self, tokens: Int[Array, "batch beams"], cache: Cache, position: int | Int[Array, ""]
    ) -> tuple[Float[Array, "batch beams vocab_size"], Cache]:
        """Takes the token at `position` of every beam; returns the logits of the next, and the cache with it."""
        x = self._embed_tokens("target", tokens, position, train=False)
        past = []
        for block, own, memory in zip(self._decoder_blocks(), cache.past, cache.memory, strict=True):
            stream, own = block.step(Stream(x, None, memory, cache.memory_mask), own, position)
            x = stream.tokens
            past.append(own)
        return self._logits(self._final_norm("decoder", x)), cache._replace(past=tuple(past))

    def _decoder_blocks(self):
        """Yields the blocks of the decoder, bound to their parameters."""
        make: Any = self.decoder.block
        for i in range(self.num_layers):
            yield make(parent=None).bind({"params": self.decoder.variables["params"][f"block_{i}"]})

    def _mask(self, source):
        return (source != self.pad_id)[:, None, None, :]

    def _encode(self, source, *, train, capture=()):
        stream = Stream(self._embed_tokens("source", source, train=train), self._mask(source))
        return self._run("encoder", stream, train=train, capture=capture)

    def _embed_tokens(self, side, tokens, position=None, *, train):
        """Embeds tokens in sequence, or those of one position; `side` is source or target."""
        if position is None:
            position = jnp.arange(tokens.shape[1])
            self._check_length(tokens.shape[1])
        table = self.embed if self.share_embeddings else getattr(self, f"{side}_embed")
        if self.pos_embed == "learned":
            positions = getattr(self, f"{side}_pos_embed")(position)
        else:
            positions = sinusoids(jnp.asarray(position), self.hidden_dim)
        x = table(tokens)
        x = x * self.hidden_dim**0.5 + positions.astype(x.dtype)
        return self.dropout(x, deterministic=not train)

    def _check_length(self, length):
        if self.pos_embed == "learned" and length > self.max_length:
            raise ValueError(
                f"{length} tokens given to a model with learned positions for max_length={self.max_length}"
            )

    def _run(self, side, stream, *, train, capture):
        """Runs a stack; returns its tokens, and what `capture` names of it."""
        # attention to a memory comes with attention to itself, and all else with the stack's own names
        names = {
            name.removeprefix(f"{side}/").removeprefix("cross_") for name in capture if name.startswith(f"{side}/")
        }
        stream, captured = getattr(self, side)(stream, train=train, capture=tuple(names))
        x = self._final_norm(side, stream.tokens)
        found = {f"{side}/tokens/final": x}
        for name, value in captured.items():
            kind, _, i = name.partition("/")
            of_layer = {"tokens": value.tokens} if kind == "tokens" else value
            found |= {f"{side}/{kind}/{i}": array for kind, array in of_layer.items() if array is not None}
        return x, found

    def _final_norm(self, side, x):
        return getattr(self, f"{side}_norm")(x) if self.norm == "pre" else x

    def _logits(self, x):
        logits = self.embed.attend(x) if self.share_embeddings else self.head(x)
        return logits.astype(jnp.promote_types(self.dtype, jnp.float32))


def build(variant: str, **overrides: Any) -> Transformer:
    """Builds `base` or `big`; the other rows of Table 3 are overrides of `base`.

    Big's dropout is that of English to German; for English to French the paper has 0.1.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown Transformer variant {variant!r}: one of {', '.join(VARIANTS)}")
    model = Transformer(**{**VARIANTS[variant], **overrides})
    check_choices(
        model,
        architecture=ARCHITECTURES,
        norm=NORMS,
        pos_embed=POSITIONS,
        remat=REMAT,
        attention_kernel=KERNELS,
    )
    if model.hidden_dim % model.num_heads and not (model.qk_head_dim and model.v_head_dim):
        raise ValueError(f"num_heads={model.num_heads} does not divide hidden_dim={model.hidden_dim}")
    if model.hidden_dim % 2 and model.pos_embed == "sinusoidal":
        raise ValueError(f"pos_embed='sinusoidal' needs an even hidden_dim, not {model.hidden_dim}")
    return model
