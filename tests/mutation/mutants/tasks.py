"""What is learned and how it is scored."""

# ruff: noqa: E501

CLASSES = "tests/loop/test_scores.py tests/tasks/test_classification.py"
TRANSLATION = "tests/loop/test_scores.py tests/tasks/test_translation.py"

MUTANTS = {
    ("vit_jax/tasks/classification.py", CLASSES): [
        ("np.logaddexp.reduceat(log_probabilities, first, axis=0) - np.log(views)[:, None]",
         "np.add.reduceat(log_probabilities, first, axis=0) / views[:, None]"),
        ("_hits(logits, self.targets(batch[\"label\"]))", "_hits(logits, targets)"),
        ("inputs, targets = self.mix(inputs, targets, rngs[\"mix\"])", "inputs, _ = self.mix(inputs, targets, rngs[\"mix\"])"),
        ("optax.smooth_labels(targets, self.label_smoothing)", "targets"),
        ("0.5 if self.mixup_alpha else 1.0", "0.5"),
        ("jax.random.bernoulli(whether, self.mix_probability)", "1.0"),
        ("targets * (1 - weight) + targets[::-1] * weight", "targets * weight + targets[::-1] * (1 - weight)"),
        ("weight = share.mean()", "weight = 1.0 - mixup"),
        ("half = 0.5 * jnp.sqrt(area) * size", "half = 0.5 * area * size"),
        ("(0 if self.loss_name == \"softmax\" else (1 - targets) * no)", "0"),
        ("hits[:, :5].any(-1)", "hits[:, :4].any(-1)"),
        ("labelled = targets.sum(-1) > 0", "labelled = targets.sum(-1) >= 0"),
        (".sum(-1)\n\n    def mix", ".mean(-1)\n\n    def mix"),
    ],
    ("vit_jax/tasks/translation.py", TRANSLATION): [
        ("(labels != PAD_ID) * batch[\"mask\"][:, None]", "(labels != PAD_ID) * 1.0"),
        ("(labels != PAD_ID) * batch[\"mask\"][:, None]", "jnp.ones_like(labels) * batch[\"mask\"][:, None]"),
        ("if train and self.label_smoothing:", "if self.label_smoothing:"),
        ("epsilon * logits.mean(axis=-1)", "epsilon * chosen"),
        ("batch[\"target\"][:, :-1], batch[\"target\"][:, 1:]", "batch[\"target\"][:, 1:], batch[\"target\"][:, 1:]"),
        ("math.exp(loss) if", "2**loss if"),
        ("\"nll\": (nll * weights).sum(axis=-1)", "\"nll\": nll.sum(axis=-1)"),
    ],
}  # fmt: skip
