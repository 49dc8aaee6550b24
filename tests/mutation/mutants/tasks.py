"""Mutants of the tasks and their scores."""

# ruff: noqa: E501

CLASSES = "tests/tasks/test_scores.py tests/tasks/test_classification.py"
TRANSLATION = "tests/tasks/test_scores.py tests/tasks/test_translation.py"
PARSING = "tests/tasks/test_parsing.py"

MUTANTS = {
    ("vit_jax/tasks/classification.py", CLASSES): [
        ("jax.nn.logsumexp(stacked, axis=1) - jnp.log(views)", "stacked.mean(axis=1)"),
        ("jax.nn.logsumexp(stacked, axis=1) - jnp.log(views)", "jax.nn.logsumexp(stacked, axis=1)"),
        ('if self.views > 1 and self.average_views == "probabilities":', "if self.views > 1:"),
        ("logits = logits.reshape(-1, self.views, logits.shape[-1]).mean(axis=1)", "pass"),
        ("return self.probabilities(stacked.mean(axis=1))", "return self.probabilities(stacked).mean(axis=1)"),
        ("_hits(logits, self.targets(batch[\"label\"]))", "_hits(logits, targets)"),
        ("inputs, targets = self.mix(inputs, targets, rngs[\"mix\"])", "inputs, _ = self.mix(inputs, targets, rngs[\"mix\"])"),
        ("optax.smooth_labels(targets, self.label_smoothing)", "targets"),
        ("0.5 if self.mixup_alpha else 1.0", "0.5"),
        ("jax.random.bernoulli(whether, self.mix_probability)", "1.0"),
        ("targets * (1 - weight) + partners(targets, self.group) * weight", "targets"),
        ("images * (1 - share) + partners(images, self.group) * share", "images * share + partners(images, self.group) * (1 - share)"),
        ("weight = share.mean()", "weight = 1.0 - mixup"),
        ("missed = 0 if self.loss_name == \"softmax\" else (1 - targets) * no", "missed = 0"),
        ("min(5, self.num_classes)", "min(4, self.num_classes)"),
        ("targets.sum(-1) > 0,", "targets.sum(-1) >= 0,"),
        (".sum(-1)\n\n    def mix", ".mean(-1)\n\n    def mix"),
    ],
    ("vit_jax/tasks/mixing.py", CLASSES): [
        (".reshape(-1, 2, group // 2, *x.shape[1:])[:, ::-1]", ".reshape(-1, 2, group // 2, *x.shape[1:])[::-1]"),
        ("half = 0.5 * jnp.sqrt(area) * size", "half = 0.5 * area * size"),
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
    ("vit_jax/tasks/parsing.py", PARSING): [
        ("(gold_brackets & found_brackets).total() if has_all_words else 0", "(gold_brackets & found_brackets).total()"),
        ("found_brackets.total(), gold_brackets.total(), is", "gold_brackets.total(), found_brackets.total(), is"),
        ("_brackets(found, deleted if has_all_words else", "_brackets(found, [] if has_all_words else"),
        ("elif label == NO_BRACKET:", "elif label == label + NO_BRACKET:"),
        ('EQUAL = {"PRT": "ADVP"}', "EQUAL = {}"),
        ('_percent(2 * matched, found + gold)', '_percent(matched, max(found, gold))'),
        ('"recall": _percent(matched, gold)', '"recall": _percent(matched, found)'),
    ],
}  # fmt: skip
