"""The convolutional stem of hybrid ViTs: a ResNet with standardised kernels and group norm.

ViT (arXiv:2010.11929), section 3.1 and appendix B.1; Big Transfer (arXiv:1912.11370); AugReg (arXiv:2106.10270).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from vit_jax.models.layers import TypedModule

# ViT, appendix B.1, and AugReg, Table 2: units in each stage of the ResNet, and patch size on its feature map. The
# number after the slash is the patch size in pixels of the image, except in AugReg's name R/16, where the patch is 32
# pixels: the root divides the image size by 4.
HYBRIDS = {
    "R/16": {"resnet_stages": (), "patch_size": (8, 8)},
    "R26/32": {"resnet_stages": (2, 2, 2, 2), "patch_size": (1, 1)},
    "R50/16": {"resnet_stages": (3, 4, 9), "patch_size": (1, 1)},
    "R50/32": {"resnet_stages": (3, 4, 6, 3), "patch_size": (1, 1)},
}
GROUPS = 32
# Codebase -> (how it divides a centred kernel by its standard deviation, epsilon of its group norms)
FLAVOURS = {
    "google": (lambda centred: centred / (centred.std((0, 1, 2)) + 1e-5), 1e-6),
    "timm": (lambda centred: centred * jax.lax.rsqrt(centred.var((0, 1, 2)) + 1e-8), 1e-5),
}


class StdConv(TypedModule):
    """Convolution with a standardised kernel and no bias (arXiv:1903.10520).

    y = conv(x, (W - mean(W)) / std(W)), mean and standard deviation being those of each output channel. The padding is
    SAME: a size n becomes ceil(n / stride).

    Attributes:
      flavour: See `ResNet`.
    """

    features: int
    kernel_size: int
    stride: int = 1
    flavour: str = "google"

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


class Unit(TypedModule):
    """Bottleneck residual unit with `4 * width` output channels.

        y = relu(shortcut(x) + GN(conv1x1(relu(GN(conv3x3(relu(GN(conv1x1(x)))))))))

    The 3x3 convolution has the stride. The shortcut is the identity, or GN(conv1x1(x)) if the shape changes. The scale
    of the last group norm GN starts at zero, so that the residual branch does too.
    """

    width: int
    stride: int = 1
    flavour: str = "google"

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


class ResNet(TypedModule):
    """ResNet that returns its feature map: a root, then stages of units.

    The root is a 7x7 convolution and a max pooling, both with stride 2. Each stage except the first starts with a unit
    of stride 2. A size n becomes ceil(n / `stride_of(stages)`).

    Attributes:
      stages: Number of units in each stage; an empty tuple leaves only the root.
      width: Channels of the root, a multiple of 32. Stage i has `4 * width * 2**i` output channels.
      flavour: Whose constants to use. `google`: kernels are divided by std + 1e-5, and the group norms' epsilon is
        1e-6. `timm`: kernels are divided by sqrt(var + 1e-8), and epsilon is 1e-5. Google trained the published
        hybrids.
    """

    stages: tuple[int, ...]
    width: int = 64
    flavour: str = "google"

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width features"]:
        conv, norm = _layers(self)
        x = nn.relu(norm(name="root_norm")(conv(self.width, 7, 2, name="root_conv")(images)))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for i, units in enumerate(self.stages):
            for j in range(units):
                stride = 2 if i > 0 and j == 0 else 1
                x = Unit(self.width * 2**i, stride, self.flavour, name=f"stage_{i}_unit_{j}", **self.types)(x)
        return x


def stride_of(stages: tuple[int, ...]) -> int:
    """Return the stride of the feature map of a `ResNet`, in pixels of the image."""
    return 4 * 2 ** max(len(stages) - 1, 0)


def _layers(module):
    """Return the factories of the convolutions and the norms of a `Unit` or a `ResNet`."""
    norm = functools.partial(nn.GroupNorm, GROUPS, epsilon=FLAVOURS[module.flavour][1], **module.types)
    return functools.partial(StdConv, flavour=module.flavour, **module.types), norm
