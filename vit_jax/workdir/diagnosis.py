"""Why a checkpoint cannot be used: an intact one that holds another state is not called damaged."""

import contextlib
import errno
import re
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from vit_jax.errors import UserError

PyTree = Any
_NOT_DAMAGE = (
    errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENETDOWN,
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNRESET, errno.ECONNREFUSED,
)  # fmt: skip
# how TensorStore and XLA report them
_NOT_DAMAGE_STATUS = re.compile(
    "PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|UNAVAILABLE|"
    "Permission denied|Too many open files|Cannot allocate memory|[Oo]ut of memory"
)


@contextlib.contextmanager
def refusals(checkpoint: epath.Path) -> Iterator[None]:
    """Turns an error that says nothing about the files themselves into a UserError: permissions, memory, network."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _NOT_DAMAGE:
            reason = getattr(error, "strerror", None) or "out of memory"
        elif found := _NOT_DAMAGE_STATUS.search(str(error)):
            line = next(line for line in str(error).splitlines() if _NOT_DAMAGE_STATUS.search(line))
            reason = line if len(line) <= 160 else f"{found[0]} ... {line[-120:]}"
        else:
            raise
        raise UserError(
            f"{checkpoint} cannot be read: {reason}. It is not known to be damaged, and is left as it is."
        ) from error


def check_same_state(checkpoint: epath.Path, saved: dict[str, str], abstract_state: PyTree) -> None:
    """Checks that a checkpoint holds a state of this run's structure, shapes and dtypes.

    Args:
      saved: What `describe` returns for the tree of a checkpoint's metadata.

    Raises:
      UserError: It holds another model, another optimizer, or keys of another PRNG implementation.
    """
    was, now = saved, describe(abstract_state)
    if was == now:
        return
    if (rng := was.get("rng")) != now.get("rng") and rng is not None:
        raise UserError(
            f"{checkpoint} was saved with another PRNG implementation: its key is {rng}, but {now.get('rng')} with "
            f"{prng_impl()!r}. Set JAX_DEFAULT_PRNG_IMPL as it was, or use another --workdir."
        )
    differences = [
        f"{name}: {was.get(name, 'none')} -> {now.get(name, 'none')}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    raise UserError(
        f"{checkpoint} holds another model or optimizer than this run has ({'; '.join(differences[:3])}{more}). It is "
        "not damaged. Use the code and the package versions that it was saved with, or another --workdir."
    )


def describe(tree: PyTree) -> dict[str, str]:
    """Returns `dtype(shape)` for each array of a state or of a checkpoint's metadata, by its path."""
    described = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape")):
        names = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path]
        described["/".join(names)] = f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "shape") else repr(leaf)
    return described


def prng_impl() -> str:
    """Returns the name of JAX's implementation of random numbers, on which every value of a run depends."""
    return jax.config.jax_default_prng_impl  # pyright: ignore[reportAttributeAccessIssue]
