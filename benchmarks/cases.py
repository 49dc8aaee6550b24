"""What is measured: the models, their batches per device, and tiny sizes of them for a try on any machine."""

import dataclasses
import time
from typing import Any

SCHEMES = ("divided_space_time", "joint_space_time", "space_only", "sparse_local_global", "axial")

# examples per device: (accelerator, CPU)
BATCHES = {
    "vit:S/16": (256, 8),
    "vit:B/16": (256, 8),
    "vit:L/16": (128, 4),
    "tnt:S/16": (256, 8),
    "tnt:B/16": (128, 4),
    **{f"timesformer:B/16,{scheme}": (16, 1) for scheme in SCHEMES},
    "timesformer:B/16,joint_space_time": (8, 1),
    "transformer:base": (128, 4),
}
TINY_BATCH = 2
SENTENCE_LENGTH = {False: 64, True: 8}  # tokens of each source and each target; True if tiny

_TINY = {"num_classes": 10, "hidden_dim": 32, "mlp_dim": 128, "num_layers": 2, "num_heads": 2}
_TINY_FIELDS = {
    "vit": {**_TINY, "image_size": (32, 32)},
    "tnt": {
        **_TINY,
        "image_size": (32, 32),
        "inner_hidden_dim": 8,
        "inner_mlp_dim": 32,
        "inner_num_heads": 2,
    },
    "timesformer": {**_TINY, "image_size": (32, 32), "num_frames": 2},
    "transformer": {"vocab_size": 100, "hidden_dim": 32, "mlp_dim": 128, "num_layers": 2, "num_heads": 2},
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One measurement: a model, what it does, its dtype and its batch.

    Attributes:
      model: A name in `BATCHES`: family and variant of `build_model`, and TimeSformer's attention after a comma.
      what: `train`, a step with forward and backward pass and AdamW; or `inference`, a forward pass.
      dtype: `float32`, or `bfloat16` with float32 parameters (of torch: autocast).
      batch: Examples per device.
      tiny: Whether to shrink the model, to try the benchmark rather than to measure.
      overrides: Further fields of our model, such as `{"attention_kernel": "cudnn"}`.
      compile: Whether the torch peers are compiled with `torch.compile`.
      threads: Threads of torch on a CPU; JAX uses all cores.
      processor_time: Whether to count the processor time of a side's process rather than wall time.
      google: Folder of a clone of google-research/vision_transformer, or "".
    """

    model: str
    what: str
    dtype: str
    batch: int
    tiny: bool = False
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    compile: bool = False
    threads: int = 1
    google: str = ""
    processor_time: bool = False

    def clock(self) -> float:
        return time.process_time() if self.processor_time else time.perf_counter()

    @property
    def family(self) -> str:
        return self.model.partition(":")[0]

    @property
    def sides(self) -> tuple[str, ...]:
        """The implementations to compare, ours first."""
        if self.family == "transformer":
            return ("vit_jax", "transformers")
        if self.family == "timesformer":
            return ("vit_jax", "transformers") if self.model.partition(",")[2] in SCHEMES[:3] else ("vit_jax",)
        with_google = self.google and self.family == "vit"
        return ("vit_jax", "timm", "google-research") if with_google else ("vit_jax", "timm")

    def build(self, **overrides: Any) -> Any:
        """Builds our model, without dropout, as the peers are measured."""
        import jax.numpy as jnp

        from vit_jax import build_model

        name, _, scheme = self.model.partition(",")
        fields: dict[str, Any] = dict(_TINY_FIELDS[self.family]) if self.tiny else {}
        fields |= {"dropout_rate" if self.family == "transformer" else "drop_path_rate": 0.0}
        fields |= {"dtype": jnp.dtype(self.dtype)} | ({"attention_type": scheme} if scheme else {})
        return build_model(name, **{**fields, **self.overrides, **overrides})

    def inputs(self, model: Any) -> dict[str, Any]:
        """Returns a random batch for one device, as the loader would give it."""
        import numpy as np

        rng = np.random.default_rng(0)
        mask = np.ones(self.batch, np.float32)
        if self.family == "transformer":
            shape = (self.batch, SENTENCE_LENGTH[self.tiny] + 1)  # a target has one token more, where it begins
            source, target = (rng.integers(4, model.vocab_size, shape, np.int32) for _ in range(2))
            return {"source": source[:, 1:], "target": target, "mask": mask}
        key = "video" if self.family == "timesformer" else "image"
        values = rng.standard_normal((self.batch, *model.input_shape), np.float32)
        return {key: values, "label": rng.integers(0, model.num_classes, self.batch, np.int32), "mask": mask}
