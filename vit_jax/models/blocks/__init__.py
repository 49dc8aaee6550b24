"""The residual blocks of the families, and the stack that runs them.

`encoder` is the block of ViT and of both levels of TNT. `timesformer`, `tnt` and `transformer` have the blocks of these
families.
"""

from vit_jax.models.blocks.encoder import EncoderBlock as EncoderBlock
from vit_jax.models.blocks.stack import REMAT as REMAT
from vit_jax.models.blocks.stack import BlockStack as BlockStack
from vit_jax.models.blocks.stack import with_captured as with_captured
