"""An optimizer of your own: a function of `learning_rate` that returns an optax transformation."""

import optax


def signum(learning_rate, momentum=0.9, mask=None, weight_decay=0.0):
    """Signum (arXiv:1802.04434): m <- momentum * m + (1 - momentum) * g; p <- p - learning_rate * sign(m).

    Decoupled weight decay applies to the parameters in `mask`, which is made from `config.optimizer.weight_decay_mask`.
    The other parameters are the keys of `config.optimizer.extra`.
    """
    return optax.chain(
        optax.ema(momentum, debias=False),
        optax.scale_by_sign(),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
