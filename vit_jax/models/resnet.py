"""The convolutional stem of hybrid ViTs: a ResNet with standardised kernels and group norm, without its last layers.

ViT (arXiv:2010.11929), section 3.1 and appendix B.1; Big Transfer (arXiv:1912.11370); AugReg (arXiv:2106.10270).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

# ViT, appendix B.1, and AugReg, Table 2: stages of the ResNet, and size of a patch of its feature map. The number
# after the stroke is the image's pixels a patch, but for R/16 as AugReg names it: its root divides by 4, so 32.
HYBRIDS = {
    "R/16": {"resnet_stages": (), "patch_size": (8, 8)},
    "R26/32": {"resnet_stages": (2, 2, 2, 2), "patch_size": (1, 1)},
    "R50/16": {"resnet_stages": (3, 4, 9), "patch_size": (1, 1)},
    "R50/32": {"resnet_stages": (3, 4, 6, 3), "patch_size": (1, 1)},
}
GROUPS = 32
# codebase -> (how a kernel is divided by its standard deviation, epsilon of the group norms)
FLAVOURS = {
    "google": (lambda centred: centred / (centred.std((0, 1, 2)) + 1e-5), 1e-6),
    "timm": (lambda centred: centred * jax.lax.rsqrt(centred.var((0, 1, 2)) + 1e-8), 1e-5),
}


class StdConv(nn.Module):
    """Convolution whose kernel has mean 0 and variance 1 for each output (Weight Standardization, arXiv:1903.10520).

    Without a bias, and with SAME padding: a size n becomes ceil(n / stride).
    """

    features: int
    kernel_size: int
    stride: int = 1
    flavour: str = "google"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width features"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, self.param_dtype)
        kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
        kernel = FLAVOURS[self.flavour][0](kernel - kernel.mean((0, 1, 2)))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        strides, layout = (self.stride, self.stride), ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=layout)


class Unit(nn.Module):
    """Bottleneck residual unit: 1x1, 3x3 and 1x1 convolutions, to four times `width` channels.

    The shortcut is projected where the shape changes; the 3x3 convolution has the stride. The last norm's scale
    starts at zero, so that the unit starts as its shortcut.
    """

    width: int
    stride: int = 1
    flavour: str = "google"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        conv, norm = _layers(self)
        shortcut = x
        if self.stride > 1 or x.shape[-1] != 4 * self.width:
            shortcut = conv(4 * self.width, 1, self.stride, name="shortcut_conv")(x)
            shortcut = norm(name="shortcut_norm")(shortcut)
        y = nn.relu(norm(name="norm_0")(conv(self.width, 1, name="conv_0")(x)))
        y = nn.relu(norm(name="norm_1")(conv(self.width, 3, self.stride, name="conv_1")(y)))
        y = norm(scale_init=nn.initializers.zeros, name="norm_2")(conv(4 * self.width, 1, name="conv_2")(y))
        return nn.relu(shortcut + y)


class ResNet(nn.Module):
    """Root (7x7 convolution and max pooling, each of stride 2), then stages of units; the feature map, unpooled.

    A size n becomes ceil(n / `stride_of(stages)`): the root divides by 4, each stage but the first by 2.

    Attributes:
      stages: Units in each stage; none leaves the root alone.
      width: Channels of the root; a multiple of 32. Stage i gives `4 * width * 2**i`.
      flavour: Whose small constants: `google` (kernels over std + 1e-5, group norm 1e-6) or `timm`
        (over sqrt(var + 1e-8), 1e-5). Published hybrids were trained by Google.
    """

    stages: tuple[int, ...]
    width: int = 64
    flavour: str = "google"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width features"]:
        conv, norm = _layers(self)
        x = nn.relu(norm(name="root_norm")(conv(self.width, 7, 2, name="root_conv")(images)))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i, units in enumerate(self.stages):
            for j in range(units):
                stride = 2 if i > 0 and j == 0 else 1
                x = Unit(self.width * 2**i, stride, self.flavour, name=f"stage_{i}_unit_{j}", **types)(x)
        return x


def stride_of(stages: tuple[int, ...]) -> int:
    """Pixels of the image down, and across, for each place of the feature map."""
    return 4 * 2 ** max(len(stages) - 1, 0)


def _layers(module):
    types = {"dtype": module.dtype, "param_dtype": module.param_dtype}
    norm = functools.partial(nn.GroupNorm, GROUPS, epsilon=FLAVOURS[module.flavour][1], **types)
    return functools.partial(StdConv, flavour=module.flavour, **types), norm
