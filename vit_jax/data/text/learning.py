"""Learns vocabularies, and keeps each in the user's cache so that it is learned only once."""

import hashlib
import os
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from vit_jax.data.text.vocabulary import Vocabulary

MANY = 500_000  # learning from more sentences takes long enough to print a message first


def learn_vocabulary(sentences: list[str], size: int) -> Vocabulary:
    """Learns a vocabulary of `size` sub-words, or reads it from the cache.

    The cache is `$XDG_CACHE_HOME/vit_jax` (`~/.cache/vit_jax` if unset). Its key is a hash of the sentences, the size
    and the version of sentencepiece.

    Raises:
      UserError: See `Vocabulary.train`.
    """
    digest = hashlib.sha256(f"{version('sentencepiece')} {size}\n".encode())
    for sentence in sentences:
        encoded = sentence.encode()
        digest.update(b"%d:" % len(encoded) + encoded)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vit_jax" / "vocabularies"
    file = cache / f"{digest.hexdigest()[:32]}.model"
    try:
        return Vocabulary(file.read_bytes())
    except OSError:
        pass  # not in the cache yet
    console, message = Console(stderr=True), f"learning {size:,} sub-words from {len(sentences):,} sentences"
    if len(sentences) > MANY and not console.is_terminal:
        console.print(message)
    with console.status(message):
        vocabulary = Vocabulary.train(sentences, size)
    partial = file.with_suffix(f".partial{os.getpid()}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(vocabulary.model)
        partial.replace(file)
    except OSError:
        pass  # without a cache, the next run learns it again
    return vocabulary
