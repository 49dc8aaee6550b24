"""Transformer: Attention Is All You Need (arXiv:1706.03762); or one half of it."""

import functools
from collections.abc import Collection
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float, Int

from vit_jax.models.attention import KERNELS, KeyValues
from vit_jax.models.blocks import REMAT, BlockStack, with_captured
from vit_jax.models.blocks.transformer import Block, Stream
from vit_jax.models.layers import Dense, TypedModule, at_least_float32, check_choices

# Table 3
VARIANTS = {
    "base": {"num_layers": 6, "hidden_dim": 512, "mlp_dim": 2048, "num_heads": 8, "dropout_rate": 0.1},
    "big": {"num_layers": 6, "hidden_dim": 1024, "mlp_dim": 4096, "num_heads": 16, "dropout_rate": 0.3},
}
ARCHITECTURES = ("encoder_decoder", "encoder", "decoder")
NORMS = ("post", "pre")
POSITIONS = ("sinusoidal", "learned")


def sinusoids(positions: Int[Array, "*tokens"], hidden_dim: int) -> Float[Array, "*tokens hidden_dim"]:
    """Return sinusoidal position embeddings (section 3.5).

        channel 2i:      sin(position / 10000^(2i / hidden_dim))
        channel 2i + 1:  cos(position / 10000^(2i / hidden_dim))

    Deviation: tensor2tensor orders the channels differently, all sines before all cosines, and stretches the
    wavelengths so that the longest is exactly 2 pi * 10000.
    """
    angles = positions[..., None] * 10_000.0 ** (-jnp.arange(0, hidden_dim, 2) / hidden_dim)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*positions.shape, hidden_dim)


# The logits, or the tokens of an encoder; with `capture`, also a dict of what it names.
Outputs = Float[Array, "batch tokens outputs"] | tuple[Float[Array, "batch tokens outputs"], dict[str, Any]]


class Cache(NamedTuple):
    """The state that `Transformer.step` keeps between tokens.

    Attributes:
      past: Keys and values of the tokens so far, `(batch, beams, length, heads, head_dim)`, for each layer.
      memory: Keys and values of the encoder's output, `(batch, source, heads, head_dim)`, for each layer; None without
        an encoder.
      memory_mask: False where the source is padding, `(batch, 1, 1, source)`; None without an encoder.
    """

    past: tuple[KeyValues, ...]
    memory: tuple[KeyValues | None, ...]
    memory_mask: Bool[Array, "batch 1 1 source"] | None


class Transformer(TypedModule):
    """Transformer on token ids: encoder and decoder, or one of them alone.

        x = dropout(sqrt(hidden_dim) * embedding[tokens] + positions)
        memory = encoder(x_source),   y = decoder(x_target, memory)         see `Block`
        logits = y embedding^T                                              or y W if embeddings are not shared

    Source tokens equal to `pad_id` are masked in all attentions. In the target only the causal mask applies: padding
    must come last, and the outputs at padding must be ignored.

    If `dtype` is bfloat16, the logits are summed and returned in float32: the factors of this largest product stay
    bfloat16 for speed, but its result is not rounded, which would make the largest logits equal.

    Initial values are tensor2tensor's: kernels Xavier-uniform, embeddings N(0, hidden_dim^-0.5) (the standard
    deviation), biases zero. Learned positions start like the embeddings, as in fairseq. The paper does not say.
    Deviation: tensor2tensor shifts the target by one and puts a zero vector first. Here the target starts with a token
    of its own, and the logits at a position predict the token after it.

    Attributes:
      architecture: `encoder_decoder`; `encoder`, which returns its tokens; or `decoder`, a language model.
      vocab_size: Size of the vocabulary of source and target, which is also the number of logits.
      pad_id: Token id of padding.
      max_length: Largest number of tokens with learned positions. Sinusoidal positions have no limit.
      hidden_dim: Token width.
      mlp_dim: Width of the hidden layer of each feed-forward network.
      num_layers: Number of blocks of the encoder, and of the decoder.
      num_heads: Attention heads.
      qk_head_dim, v_head_dim: See `MultiHeadAttention`.
      norm: `post` (as published), or `pre`, which has one more norm after the last block (as in later presets of
        tensor2tensor).
      pos_embed: `sinusoidal`, see `sinusoids`, or `learned`, a table for the source and another for the target.
      share_embeddings: Whether one matrix embeds source and target and, transposed, gives the logits (section 3.4).
        Otherwise there are three matrices.
      qkv_bias, out_bias: Whether the attention's projections have biases. In the paper's formulas and in tensor2tensor
        they have none.
      norm_epsilon: Epsilon of all layer norms.
      dropout_rate: Dropout of the sums of embeddings and positions and of the output of each sub-layer (section 5.4).
      attention_dropout_rate: Dropout of the attention weights; the paper has none.
      scan_layers, remat: See `BlockStack`.
      attention_kernel: See `dot_product_attention`.
      dtype: Dtype of the computation. Layer norms and softmax compute in float32 or wider all the same.
      param_dtype: Dtype of the parameters.
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

    def setup(self):
        normal = nn.initializers.normal(self.hidden_dim**-0.5)
        embed = functools.partial(nn.Embed, features=self.hidden_dim, embedding_init=normal, **self.types)
        self.embed, self.source_embed, self.target_embed = (embed(self.vocab_size) for _ in range(3))
        self.source_pos_embed, self.target_pos_embed = (embed(self.max_length) for _ in range(2))
        self.head = Dense(
            self.vocab_size,
            use_bias=False,
            kernel_init=nn.initializers.xavier_uniform(),
            out_dtype=at_least_float32(self.dtype),
            **self.types,
        )
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
            remat_branches=self.remat == "branches",
            **self.types,
        )
        stack = functools.partial(
            BlockStack, num_layers=self.num_layers, scan_layers=self.scan_layers, remat=self.remat
        )
        self.encoder, self.decoder = stack(block), stack(functools.partial(block, is_causal=True))
        self.encoder_norm, self.decoder_norm = (nn.LayerNorm(epsilon=self.norm_epsilon, **self.types) for _ in range(2))

    def __call__(
        self,
        source: Int[Array, "batch source"],
        target: Int[Array, "batch target"] | None = None,
        *,
        train: bool,
        capture: Collection[str] = (),
    ) -> Outputs:
        """Return the logits `(batch, target, vocab_size)`, in float32 or wider.

        An `encoder` returns its tokens instead. An encoder or a decoder alone takes a single sequence, as the first
        argument.

        With `capture`, return the result and a dict of the values it names:

        - `encoder/attention/i`: attention weights of layer i, `(batch, num_heads, source, source)`; in the same way
          `decoder/attention/i`, and `decoder/cross_attention/i`, `(batch, num_heads, target, source)`.
        - `encoder/tokens/i`, `decoder/tokens/i`: output of layer i, `(batch, tokens, hidden_dim)`.
        - `encoder/tokens/final`, `decoder/tokens/final`: output of the whole stack.

        Raises:
          ValueError: A sequence is missing or superfluous, one is longer than `max_length`, or `capture` names an
            unknown value.
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
        return with_captured(x, captured, capture, self.num_layers)

    def start(self, source: Int[Array, "batch source"] | None, shape: tuple[int, int, int]) -> Cache:
        """Encode the source and return the cache from which `step` starts.

        Args:
          source: Token ids; None for a `decoder`.
          shape: `(batch, beams, length)` of the sequences to decode.
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
        """Compute the logits of the next token of every beam, given its token at `position`.

        Returns:
          The logits, and the cache with the keys and values of `tokens` added.
        """
        x = self._embed_tokens("target", tokens, position, train=False)
        past = []
        for block, own, memory in zip(self._decoder_blocks(), cache.past, cache.memory, strict=True):
            stream, own = block.step(Stream(x, None, memory, cache.memory_mask), own, position)
            x = stream.tokens
            past.append(own)
        return self._logits(self._final_norm("decoder", x)), cache._replace(past=tuple(past))

    def _decoder_blocks(self):
        """Yield the blocks of the decoder, bound to their parameters."""
        make: Any = self.decoder.block
        for i in range(self.num_layers):
            yield make(parent=None).bind({"params": self.decoder.variables["params"][f"block_{i}"]})

    def _mask(self, source):
        return (source != self.pad_id)[:, None, None, :]

    def _encode(self, source, *, train, capture=()):
        stream = Stream(self._embed_tokens("source", source, train=train), self._mask(source))
        return self._run("encoder", stream, train=train, capture=capture)

    def _embed_tokens(self, side, tokens, position=None, *, train):
        """Embed a sequence of tokens of `side`, source or target; or tokens all at `position`."""
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
                f"{length} tokens given to a model with learned positions for max_length={self.max_length}: shorten "
                "them, or build it with a larger max_length"
            )

    def _run(self, side, stream, *, train, capture):
        """Run the encoder or the decoder; return its tokens, and what it has of `capture`."""
        # BlockStack knows `attention/i`, a dict of self- and cross-attention weights, and `tokens/i`, a Stream.
        names = {
            name.removeprefix(f"{side}/").removeprefix("cross_") for name in capture if name.startswith(f"{side}/")
        }
        stream, captured = getattr(self, side)(stream, train=train, capture=tuple(names))
        x = self._final_norm(side, stream.tokens)
        found = {f"{side}/tokens/final": x}
        for name, value in captured.items():
            kind, _, i = name.partition("/")
            parts = {"tokens": value.tokens} if kind == "tokens" else value
            found |= {f"{side}/{kind}/{i}": array for kind, array in parts.items() if array is not None}
        return x, found

    def _final_norm(self, side, x):
        return getattr(self, f"{side}_norm")(x) if self.norm == "pre" else x

    def _logits(self, x):
        if not self.share_embeddings:
            return self.head(x)
        x, table = promote_dtype(x, self.embed.embedding, dtype=self.dtype)
        return jnp.dot(x, table.T, preferred_element_type=at_least_float32(self.dtype))


def build(variant: str, **overrides: Any) -> Transformer:
    """Build the Transformer `base` or `big`, with fields that override it.

    The other rows of Table 3 are overrides of `base`. The dropout of `big` is that for English to German; for English
    to French the paper uses 0.1.

    Raises:
      ValueError: The variant is unknown, or the fields do not fit together.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown Transformer variant {variant!r}. Use one of {', '.join(VARIANTS)}.")
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
