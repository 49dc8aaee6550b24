"""Foreign weights in and out: Google's `.npz`, timm, Hugging Face, the authors' torch files."""

from vit_jax.pretrained.load import Pretrained, from_pretrained, load_pretrained
from vit_jax.pretrained.report import Report, Row
from vit_jax.pretrained.save import save_pretrained

__all__ = ["Pretrained", "Report", "Row", "from_pretrained", "load_pretrained", "save_pretrained"]
