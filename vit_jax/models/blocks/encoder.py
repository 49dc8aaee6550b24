"""The pre-norm block of ViT, which TNT uses for its words and for its sentences."""

from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from vit_jax.models.attention import MultiHeadAttention
from vit_jax.models.blocks.stack import ResidualBlock
from vit_jax.models.layers import MLP, DropPath, LayerNorm, LayerScale


class EncoderBlock(ResidualBlock):
    """Pre-norm self-attention, then an MLP, each with a residual (ViT, equations 2 and 3).

        y = x + drop_path(scale_1 * dropout(Attention(LayerNorm(x))))
        z = y + drop_path(scale_2 * MLP(LayerNorm(y)))

    The scales are learned vectors of `LayerScale`, or absent. With `mlp_gate`, MLP(u) becomes m + gate(m) for
    m = MLP(u).

    Attributes:
      num_heads: Attention heads.
      mlp_dim: Width of the MLP's hidden layer.
      dropout_rate: Dropout after the attention's output projection and within the MLP.
      layer_scale_init: Initial scale of the residual branches; None disables `LayerScale`.
      norm_epsilon: Epsilon of the layer norms. They and the softmax compute in float32 or wider.
      mlp_gate: Factory called as `mlp_gate(name=...)`; its output is added to the MLP's. None for no gate.
      kernel_init: Initializer of the kernels of the attention and the MLP.
      bias_init: Initializer of the biases of the MLP. The attention's start at zero.
      attention_kernel: See `dot_product_attention`.
      remat_branches: See `ResidualBlock`.
    """

    num_heads: int
    mlp_dim: int
    gelu: str = "tanh"
    qkv_bias: bool = True
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    layer_scale_init: float | None = None
    norm_epsilon: float = 1e-6
    mlp_gate: Callable[..., nn.Module] | None = None
    kernel_init: Callable = nn.initializers.xavier_uniform()
    bias_init: Callable = nn.initializers.normal(1e-6)
    attention_kernel: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens hidden_dim"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        *,
        mask: Bool[Array, "*mask"] | None = None,
        relative: Float[Array, "tokens tokens head_dim"] | None = None,
        return_weights: bool = False,
        train: bool,
    ) -> tuple[Float[Array, "batch tokens hidden_dim"], Float[Array, "batch heads tokens tokens"] | None]:
        """Return the new tokens, and the attention weights if `return_weights` is set, else None.

        Args:
          drop_path_rate: Probability with which an example skips a residual branch.
          mask: See `MultiHeadAttention`, as for `relative`.
        """
        options = drop_path_rate, mask, relative, return_weights, train
        y, weights = self._branch(EncoderBlock._attention, x, *options)
        x = x + y
        return x + self._branch(EncoderBlock._mlp, x, drop_path_rate, train), weights

    def _norm(self, name: str) -> nn.Module:
        return LayerNorm(epsilon=self.norm_epsilon, name=name, **self.types)

    def _scale(self, name: str) -> nn.Module:
        return LayerScale(self.layer_scale_init, param_dtype=self.param_dtype, name=name)

    def _attention(self, x, drop_path_rate, mask, relative, return_weights, train):
        y, weights = MultiHeadAttention(
            num_heads=self.num_heads,
            qkv_bias=self.qkv_bias,
            dropout_rate=self.attention_dropout_rate,
            kernel=self.attention_kernel,
            kernel_init=self.kernel_init,
            name="attention",
            **self.types,
        )(self._norm("attention_norm")(x), mask=mask, relative=relative, return_weights=return_weights, train=train)
        y = nn.Dropout(self.dropout_rate)(y, deterministic=not train)
        return DropPath()(self._scale("attention_scale")(y), drop_path_rate, train=train), weights

    def _mlp(self, x, drop_path_rate, train):
        inits = {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        mlp = MLP(self.mlp_dim, self.gelu, self.dropout_rate, **inits, name="mlp", **self.types)
        y = mlp(self._norm("mlp_norm")(x), train=train)
        if self.mlp_gate is not None:
            y = y + self.mlp_gate(name="mlp_gate")(y)
        return DropPath()(self._scale("mlp_scale")(y), drop_path_rate, train=train)
