"""The side that computes with torch: timm's ViT and TnT, transformers' TimeSformer and Transformer."""

import importlib
import re
import statistics
import time
from typing import Any

from benchmarks.cases import Case
from benchmarks.jax_sides import LEARNING_RATE, parity_peers, process_peak_bytes

TIMM = {"vit": "vit_base_patch16_224", "tnt": "tnt_s_patch16_224"}  # functions whose sizes are given anew

_KEPT: list[Any] = []  # an operator is gone when its library is dropped


class Torch:
    """A peer in training mode or in inference, with fused attention, fused AdamW and, in bfloat16, autocast."""

    def __init__(self, case: Case, platform: str):
        import torch

        if platform not in ("gpu", "cpu"):
            raise LookupError(f"torch is not measured on {platform!r}")
        if platform == "gpu" and not torch.cuda.is_available():
            raise LookupError("this torch sees no GPU")
        torch.set_num_threads(case.threads)
        self.cuda = platform == "gpu"
        if self.cuda:
            torch.set_float32_matmul_precision("high")  # TF32, as XLA uses for float32
        self.case, self.device = case, "cuda" if self.cuda else "cpu"
        import_torchvision()
        model = case.build()
        self.batch_on_host = case.inputs(model)
        self.module, self.forward = _peer(case, model)
        self.module.train(case.what == "train")
        self.optimizer = torch.optim.AdamW(self.module.parameters(), LEARNING_RATE, fused=True)
        self.call = torch.compile(self.forward) if case.compile else self.forward
        self.mode = ("torch.compile" if case.compile else "eager") + ", fused attention"

    def compile(self) -> None:
        """Compiles everything by taking the first steps."""
        self.hold()
        self.run(2)
        self.release()

    def hold(self) -> None:
        """Moves parameters, optimizer state and a batch to the device."""
        import torch

        self._move(self.device)
        self.batch = {key: torch.from_numpy(values).to(self.device) for key, values in self.batch_on_host.items()}
        for name in ("label", "source", "target"):  # torch wants 64 bits
            if name in self.batch:
                self.batch[name] = self.batch[name].long()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def release(self) -> None:
        """Frees the memory of the device."""
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        del self.batch
        self._move("cpu")
        if self.cuda:
            torch.cuda.empty_cache()

    def run(self, steps: int) -> float:
        """Returns the seconds that `steps` steps take."""
        import torch

        self._wait()
        started = self.case.clock()
        for _ in range(steps):
            if self.case.what == "train":
                self._step()
            else:
                with torch.inference_mode(), self._autocast():
                    self.call(self.batch)
        self._wait()
        return self.case.clock() - started

    def peak_bytes(self) -> int:
        import torch

        return torch.cuda.max_memory_allocated() if self.cuda else process_peak_bytes()

    def _step(self):
        import torch

        with self._autocast():
            logits = self.call(self.batch)
            labels = self.batch["target"][:, 1:] if self.case.family == "transformer" else self.batch["label"]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _autocast(self):
        import torch

        return torch.autocast(self.device, torch.bfloat16, enabled=self.case.dtype == "bfloat16")

    def _move(self, device):
        import torch

        self.module.to(device)
        for state in self.optimizer.state.values():
            for name, value in state.items():
                state[name] = value.to(device) if isinstance(value, torch.Tensor) else value

    def _wait(self):
        import torch

        if self.cuda:
            torch.cuda.synchronize()


def import_torchvision() -> None:
    """Imports torchvision where it is installed. The models and transforms measured use none of its operators.

    A build for another torch cannot load its compiled operators, and then fails to import because it describes them:
    they are declared in their place.
    """
    from torch import library

    for _ in range(5):
        try:
            importlib.import_module("torchvision")
            return
        except ModuleNotFoundError:
            return
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if not missing:
                raise
            _KEPT.append(operators := library.Library("torchvision", "FRAGMENT"))
            operators.define(f"{missing[1]}(Tensor boxes, Tensor scores, float threshold) -> Tensor")


def product_rate(platform: str, dtype: str, size: int, threads: int) -> float:
    """Measures a product of two square matrices of random numbers; returns multiplications and additions a second."""
    import torch

    if platform == "gpu" and not torch.cuda.is_available():
        return 0.0
    torch.set_num_threads(threads)
    device = "cuda" if platform == "gpu" else "cpu"
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    left, right = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    torch.matmul(left, right)
    seconds, repeats = [], 10
    for _ in range(5):
        wait()
        started = time.perf_counter()
        for _ in range(repeats):
            torch.matmul(left, right)
        wait()
        seconds.append((time.perf_counter() - started) / repeats)
    return 2 * size**3 / statistics.median(seconds)


def _peer(case: Case, model: Any) -> tuple[Any, Any]:
    """Returns a module of the sizes of our `model`, and a function from a batch to its logits."""
    if case.family == "transformer":
        return _marian(model, len(case.inputs(model)["target"][0]))
    peers = parity_peers()
    sizes = {"num_classes": model.num_classes, "img_size": model.image_size[0], "patch_size": model.patch_size[0]}
    sizes |= {"embed_dim": model.hidden_dim, "depth": model.num_layers}
    if case.family == "vit":
        ratio = model.mlp_dim / model.hidden_dim
        peer = peers.timm_model(TIMM["vit"], **sizes, num_heads=model.num_heads, mlp_ratio=ratio)
    elif case.family == "tnt":
        heads = {"num_heads_inner": model.inner_num_heads, "num_heads_outer": model.num_heads}
        peer = peers.timm_model(TIMM["tnt"], **sizes, **heads, inner_dim=model.inner_hidden_dim)
    else:
        peer = peers.hf_timesformer(
            num_labels=model.num_classes,
            image_size=model.image_size[0],
            patch_size=model.patch_size[0],
            num_frames=model.num_frames,
            hidden_size=model.hidden_dim,
            intermediate_size=model.mlp_dim,
            num_hidden_layers=model.num_layers,
            num_attention_heads=model.num_heads,
            attention_type=model.attention_type,
        )
        _fuse_attention()
    key = "video" if case.family == "timesformer" else "image"
    return peer.module, lambda batch: peer.logits(peer.module(batch[key].permute(peer.layout)))


def _fuse_attention() -> None:
    """Has transformers' TimeSformer use torch's fused attention: the same function, and a stronger peer."""
    import torch
    from transformers.models.timesformer import modeling_timesformer

    def forward(self, hidden_states, output_attentions=False):
        batch, tokens, width = hidden_states.shape
        qkv = self.qkv(hidden_states).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        out = torch.nn.functional.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0))
        return (out.transpose(1, 2).reshape(batch, tokens, width),)

    modeling_timesformer.TimesformerSelfAttention.forward = forward


def _marian(model: Any, length: int) -> tuple[Any, Any]:
    """transformers' Marian: post-norm, sinusoidal positions and shared embeddings, as the Transformer's base model."""
    import transformers

    sizes = {}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": model.num_layers, f"{side}_ffn_dim": model.mlp_dim}
        sizes |= {f"{side}_attention_heads": model.num_heads}
    options: dict[str, Any] = dict(
        vocab_size=model.vocab_size,
        d_model=model.hidden_dim,
        max_position_embeddings=max(length, 128),
        activation_function="relu",
        scale_embedding=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        use_cache=False,
        attn_implementation="sdpa",
        **sizes,
    )
    module = transformers.MarianMTModel(transformers.MarianConfig(**options))

    def logits(batch):
        return module(input_ids=batch["source"], decoder_input_ids=batch["target"][:, :-1]).logits

    return module, logits
