"""Transformer (arXiv:1706.03762): the paper's recipes, and small ones that train on a CPU.

  python -m vit_jax train --config=configs/transformer.py:wmt14_en_de --workdir=runs/en_de --config.data.path=~/wmt14
  python -m vit_jax evaluate runs/en_de --split=test --average=5
  python -m vit_jax data prepare messages --path=DEBS                 # DEBS holds Debian packages with catalogues
  python -m vit_jax train --config=configs/transformer.py:messages --workdir=runs/messages \\
      --config.data.path=MESSAGES
  python -m vit_jax data prepare treebank --path=WSJ                  # WSJ has the sections 00 to 24, with *.mrg files
  python -m vit_jax train --config=configs/transformer.py:parsing --workdir=runs/parsing --config.data.path=TREEBANK
  python -m vit_jax evaluate runs/parsing --split=test --average=5

The argument is DATASET, with `big` for WMT 2014, and with `semi` or `runlocal` for parsing:

- `wmt14_en_de` and `wmt14_en_fr`: the base model, or `big`, on a folder with the splits `train`, `validation`
  (newstest2013) and `test` (newstest2014); vit_jax/data/text/source.py describes its layout. The paper's BLEU on
  newstest2014 (Table 2), and the number of checkpoints that are averaged (`evaluate --average`, section 6.1):

           en-de  en-fr  average
    base   27.3   38.1   5
    big    28.4   41.8   20

  The paper computes BLEU on tokenised text, with German compounds split. This tends to give higher values than
  sacrebleu, which compares detokenised text and is used here, so the two are not comparable.
- `messages`: interface strings of programs, English to Italian, which `data prepare` extracts from packages. With seed
  0 and 5 averaged checkpoints, BLEU is 30.4 on `test` and 16.5 on `heldout`, one whole program that is excluded from
  training; a translation memory reaches 20.4 and 0.9. Training takes 72 minutes on one CPU core that is shared with
  other work.
- `parsing`: English constituency parsing, on the Wall Street Journal of the Penn Treebank, which is licensed and was
  not available here. `data prepare treebank` makes the splits `train` (sections 02 to 21), `validation` (22) and `test`
  (23) from its files. `parsing,semi` is the semi-supervised setting: a folder whose `train.jsonl` also has the paper's
  17 million trees of other parsers, as the same symbols. The paper's F1 on section 23 (Table 4):

    WSJ only           91.3
    semi-supervised    92.7

- `runlocal`: a few steps of a tiny model on any folder of parallel text, to check that everything works;
  `parsing,runlocal` on any folder of trees.
"""

from vit_jax.config import Config, default_config
from vit_jax.errors import UserError, nearest

ARGUMENTS = (
    "wmt14_en_de",
    "wmt14_en_de,big",
    "wmt14_en_fr",
    "wmt14_en_fr,big",
    "messages",
    "parsing",
    "parsing,semi",
)  # that `python -m vit_jax configs` lists

DATASETS = {  # with their options
    "wmt14_en_de": ("base", "big"),
    "wmt14_en_fr": ("base", "big"),
    "messages": (),
    "parsing": ("semi", "runlocal"),
    "runlocal": (),
}


def get_config(arg: str = "messages") -> Config:
    dataset, *options = [option.strip() for option in arg.split(",")]
    if dataset not in DATASETS:
        raise UserError(f"configs/transformer.py: unknown data set {dataset!r}{nearest(dataset, DATASETS)}")
    for option in options:
        if option not in DATASETS[dataset]:
            hint = f"; known: {', '.join(DATASETS[dataset]) or 'none'}"
            raise UserError(f"configs/transformer.py:{dataset} has no option {option!r}{hint}")
    if dataset == "parsing":
        config = parsing(semi="semi" in options)
        return _shrink_parsing(config) if "runlocal" in options else config
    if dataset.startswith("wmt14"):
        return wmt14(dataset.removeprefix("wmt14_"), "big" if "big" in options else "base")
    return messages() if dataset == "messages" else runlocal()


def wmt14(languages: str, variant: str) -> Config:
    """WMT 2014: sections 5 and 6.1, and Table 3."""
    config = _translation(languages)
    big = variant == "big"
    config.batch_size = 25_000  # "approximately 25000 source tokens and 25000 target tokens"; here including padding
    config.duration = "300_000 steps" if big else "100_000 steps"
    config.eval_every = "10_000 steps"
    # every 10 minutes, at the paper's 1.0 and 0.4 seconds per step; the last 20 and 5 checkpoints are averaged
    config.checkpoint.every = "600 steps" if big else "1_500 steps"
    config.checkpoint.keep_last = 20 if big else 5

    config.model.name = f"transformer:{variant}"
    config.model.dropout_rate = 0.3 if big and languages == "en_de" else 0.1

    # section 5.1: byte-pair encoding for German, word pieces for French; both languages share a vocabulary
    config.data.vocab_size = 37_000 if languages == "en_de" else 32_000
    # "batched together by approximate sequence length"; the paper states neither the lengths nor a maximum
    config.data.buckets = (16, 24, 32, 48, 64, 96, 128, 256)

    config.optimizer.b1, config.optimizer.b2, config.optimizer.eps = 0.9, 0.98, 1e-9
    config.optimizer.schedule.name = "noam"
    config.optimizer.schedule.peak = 1.0
    config.optimizer.schedule.warmup = "4_000 steps"
    return config


def messages() -> Config:
    """A Transformer of 3.9 M parameters on interface strings.

    Unlike the paper's models, it has pre-norm blocks and a cosine schedule that ends at 0, which suit a short training.
    """
    config = _translation("en_it")
    config.batch_size = 2048
    config.duration = "10 epochs"
    config.eval_every = "2 epochs"
    config.checkpoint.every = "0.5 epochs"
    config.checkpoint.keep_last = 5
    config.log_every = "0.1 epochs"

    config.model.hidden_dim = 192
    config.model.mlp_dim = 768
    config.model.num_layers = 3
    config.model.num_heads = 4
    config.model.norm = "pre"

    config.data.eval_split = "validation[:500]"
    config.data.vocab_size = 4_000
    config.data.buckets = (6, 9, 12, 16, 24, 40, 64)
    config.task.extra_length = 20

    config.optimizer.b2, config.optimizer.eps = 0.98, 1e-9
    config.optimizer.clip_norm = 1.0
    config.optimizer.schedule.peak = 2e-3
    config.optimizer.schedule.warmup = "400 steps"
    return config


def parsing(*, semi: bool) -> Config:
    """Constituency parsing: section 6.3 and Table 4.

    The paper states 4 layers, d_model = 1024, 16K tokens of vocabulary (semi-supervised: 32K), a beam of 21, alpha =
    0.3, and an output of at most 300 tokens more than the input. Dropout, of attention and residual, learning rate and
    beam were chosen on section 22; only the beam is printed. "All other parameters remained unchanged from the
    English-to-German base translation model": those of `wmt14("en_de", "base")`, such as h = 8, d_ff = 2048, 25,000
    tokens a side, 100,000 steps, label smoothing and shared embeddings. As in the row of Table 3 with d_model = 1024,
    d_k = d_v = d_model / h = 128.

    What is not printed is from tensor2tensor: `transformer_parsing_base` has dropout 0.2, 16,000 steps of warm-up, half
    of the paper's learning rate (`learning_rate` 0.05, where 0.1 gives the formula of section 5.3) and `max_length`
    512; `transformer_parsing_big`, for the semi-supervised setting, dropout 0.1 and 4,000 steps.

    Deviations: tensor2tensor's presets have 6 layers, which the paper contradicts, and do not share the embeddings with
    the softmax, where the paper states no change (`model.share_embeddings=False`). Here words and trees share one
    vocabulary of sub-words, in which the end of a constituent takes two, "/" and its label. `checkpoint.best` also
    keeps the checkpoint with the best F1 on section 22; the paper does not say which one it scores.
    """
    config = wmt14("en_de", "base")
    config.model.num_layers = 4
    config.model.hidden_dim = 1024
    config.model.dropout_rate = config.model.attention_dropout_rate = 0.1 if semi else 0.2
    config.optimizer.schedule.peak = 0.5
    config.optimizer.schedule.warmup = "4_000 steps" if semi else "16_000 steps"

    config.data.languages = ("words", "tree")
    config.data.vocab_size = 32_000 if semi else 16_000
    config.data.buckets = (32, 64, 96, 128, 160, 192, 256, 384, 512)  # a tree has several times the tokens of its words
    # tokens a side of an evaluation batch: a beam of 21 then needs up to 15 GB in float32 for its keys and values
    config.eval_batch_size = 2048

    config.checkpoint.best = "f1"
    config.task.name = "parsing"
    config.task.beam_size = 21
    config.task.length_penalty = 0.3
    config.task.extra_length = 300
    return config


def runlocal() -> Config:
    """A few steps of a tiny model."""
    config = _translation("en_it")
    _shrink(config)
    config.data.vocab_size = 400
    config.data.buckets = (16, 64)
    config.task.extra_length = 4
    config.optimizer.schedule.peak = 1e-3
    return config


def _shrink_parsing(config: Config) -> Config:
    """Changes the recipe of parsing so that it runs for seconds on a few trees; returns it."""
    _shrink(config)
    config.eval_batch_size = None
    config.data.vocab_size = 330
    config.data.buckets = (64, 192)
    config.task.extra_length = 96
    config.optimizer.schedule.peak = 0.02
    return config


def _shrink(config: Config) -> None:
    config.batch_size = 256
    config.duration = "20 steps"
    config.eval_every = config.checkpoint.every = "10 steps"
    config.log_every = "5 steps"

    config.model.hidden_dim = 24
    config.model.mlp_dim = 48
    config.model.num_layers = 1
    config.model.num_heads = 2

    config.task.beam_size = 2
    config.optimizer.schedule.warmup = "2 steps"


def _translation(languages: str) -> Config:
    config = default_config()
    config.checkpoint.best = "bleu"
    config.model.name = "transformer:base"
    config.model.dropout_rate = 0.1

    config.data.name = "text"
    config.data.languages = tuple(languages.split("_"))
    config.data.train_split, config.data.eval_split = "train", "validation"

    config.task.name = "translation"
    config.task.label_smoothing = 0.1
    config.task.beam_size = 4
    config.task.length_penalty = 0.6
    config.task.extra_length = 50
    return config
