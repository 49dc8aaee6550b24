"""Package metadata. Tool settings are in pyproject.toml, exact tested versions in requirements/."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "vit_jax/__init__.py").read_text())[1]

setup(
    name="vit_jax",
    version=VERSION,
    description="Transformer, ViT, Transformer-in-Transformer and TimeSformer in JAX, from papers to pods",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["vit_jax", "vit_jax.*"]),
    entry_points={"console_scripts": ["vit_jax = vit_jax.__main__:main"]},
    install_requires=[
        "absl-py>=2.1,<3",
        "array-record>=0.7,<0.9; platform_system == 'Linux'",
        "av>=18,<20",
        "chex>=0.1.90,<0.2",
        "etils[epath]>=1.12,<2",
        "flax>=0.12,<0.13",
        "importlib_resources>=6",  # tensorflow-datasets imports it undeclared
        "jax>=0.10,<0.13",
        "jaxtyping>=0.3,<0.4",
        "matplotlib>=3.9,<4",
        "ml-collections>=1.1,<2",
        "ml-dtypes>=0.5,<1",
        "numpy>=2,<3",
        "optax>=0.2.7,<0.3",
        "orbax-checkpoint>=0.11.30,<0.13",
        "pillow>=11,<14",
        "rich>=13,<16",
        "sacrebleu>=2.4,<3",
        "safetensors>=0.5,<0.9",
        "scikit-learn>=1.5,<2",  # the digits
        "sentencepiece>=0.2,<0.3",
        "tensorboardX>=2.6,<3",
        "tensorflow-datasets>=4.9.9,<5",
    ],
    extras_require={
        "cuda": ["jax[cuda13]>=0.10,<0.13"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "kernels": ["tokamax>=0.0.8"],
        "resize": ["cykooz-resizer>=4,<5"],  # for chains with exact=False
        "parquet": ["pyarrow>=17,<30"],
        "launch": ["submitit>=1.5,<2"],  # Slurm
        "wandb": ["wandb>=0.19,<1"],
        "corruptions": ["imagecorruptions-imaug>=1.1.5,<2"],  # the photographs of frost; no code of it is imported
        "onnx": ["jax2onnx>=0.17,<0.18", "onnxruntime>=1.24,<2"],  # jax2onnx needs orbax-checkpoint below 0.11.37
        "export": ["flatbuffers>=24.3,<26"],  # jax.export serialises with it
        "test": [
            "beartype>=0.20,<1",
            "cykooz-resizer>=4,<5; platform_machine == 'x86_64' or platform_system != 'Linux'",  # where wheels are
            "django>=5,<7",  # its catalogues: real text without a network
            "hypothesis>=6.120,<7",
            "pyright>=1.1.400,<2",
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "ruff>=0.12,<1",
            "pre-commit>=4,<5",
        ],
        "notebooks": [
            "ipykernel>=6.29,<8",
            "jupytext>=1.16,<2",
            "nbclient>=0.10,<1",
            "nbformat>=5.10,<6",
        ],
        "docs": [
            "mkdocs>=1.6,<2",  # Material for MkDocs does not support 2
            "mkdocs-material>=9.6,<10",
            "pymdown-extensions>=10,<14",
        ],
        "parity": [
            "torch>=2.6,<3",
            "transformers>=4.50,<6",
            "timm>=1.0.15,<2",
            "imageio-ffmpeg>=0.6,<1",
            "PYEVALB>=0.1.3,<0.2",
        ],
    },
)
