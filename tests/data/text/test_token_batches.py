"""Token batches: every pair occurs once per epoch, whole, in a batch that depends only on the seed and the step."""

import numpy as np
import pytest

from vit_jax.data.loading.workers import Workers
from vit_jax.data.text import batches as token_batches
from vit_jax.data.text.batches import LoadTokens, TokenBatches, divide, encode_pairs, eval_batches, train_batches
from vit_jax.data.text.source import TextSource
from vit_jax.data.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Vocabulary
from vit_jax.errors import UserError

BUCKETS = (4, 8, 16)
SIDES = (("source", 0), ("target", 1))  # with the tokens beside those of the sentence and its end


def text(sources, targets):
    return TextSource("train", ("en", "it"), list(sources), list(targets), {}, [])


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train(["abc abd", "la la land", "bcd", "dab"], 275)


@pytest.fixture(scope="module")
def sentences():
    rng = np.random.default_rng(0)
    sides = [["".join(rng.choice(list("abcdln "), rng.integers(1, 25))) + "a" for _ in range(83)] for _ in range(2)]
    return text(*sides)


@pytest.fixture(scope="module")
def divided(sentences, vocabulary):
    return divide(encode_pairs(sentences, vocabulary), BUCKETS, 64)


def pairs_of(batch, vocabulary):
    """Decodes a batch into {id: (source, target)}, checking beginnings, ends and padding."""
    found = {}
    for source, target, mask, i in zip(*(batch[key] for key in ("source", "target", "mask", "id")), strict=True):
        sides = source, target[1:]
        assert target[0] == BOS_ID
        for side in sides:
            end = int(np.argmax(side == EOS_ID))
            assert side[end] == EOS_ID
            assert (side[:end] > UNK_ID).all()
            assert (side[end + 1 :] == PAD_ID).all()
        if mask:
            found[int(i)] = tuple(vocabulary.decode(side) for side in sides)
        else:
            assert i == -1
            assert (source[1:] == PAD_ID).all()
    assert len(found) == batch["mask"].sum()
    return found


def expected(source, vocabulary, longest=BUCKETS[-1]):
    pairs = enumerate(zip(source.sources, source.targets, strict=True))
    return {i: pair for i, pair in pairs if max(len(vocabulary.encode(side)) for side in pair) < longest}


def all_of(batches, vocabulary):
    """Joins the pairs of batches, each of which must be there once."""
    joined, count = {}, 0
    for batch in batches:
        found = pairs_of(batch, vocabulary)
        joined |= found
        count += len(found)
    assert count == len(joined)
    return joined


def equal(ours, theirs):
    return all(np.array_equal(ours[key], theirs[key]) for key in ours.keys() | theirs.keys())


def test_evaluation_has_every_pair_once_whatever_the_batch_size(sentences, vocabulary):
    pairs = encode_pairs(sentences, vocabulary)
    wanted = expected(sentences, vocabulary)
    assert 0 < len(wanted) < len(sentences)
    for batch_size in (16, 48, 4096):
        divided = divide(pairs, BUCKETS, batch_size)
        assert divided.skipped == len(sentences) - len(wanted)
        batches = list(eval_batches(divided))
        assert len(batches) == len(divided) == len(eval_batches(divided))
        assert all_of(batches, vocabulary) == wanted


def test_every_epoch_has_every_pair_once_in_another_order(sentences, divided, vocabulary):
    steps = len(divided)
    batches = list(train_batches(divided, seed=0, first_step=0, last_step=3 * steps))
    orders = [[batch["id"].tolist() for batch in batches[e * steps : (e + 1) * steps]] for e in range(3)]
    for epoch in range(3):
        assert all_of(batches[epoch * steps : (epoch + 1) * steps], vocabulary) == expected(sentences, vocabulary)
    assert orders[0] != orders[1] != orders[2]
    widths = [batch["source"].shape[1] for batch in batches[:steps]]
    assert widths != sorted(widths)  # buckets come mixed
    together = [{frozenset(ids) for ids in order} for order in orders]
    assert together[0] != together[1]  # and pairs meet others


def test_a_batch_depends_on_seed_and_step_alone(divided):
    whole = list(train_batches(divided, seed=3, first_step=0, last_step=30))
    resumed = list(train_batches(divided, seed=3, first_step=17, last_step=30, workers=Workers(1, 1)))
    assert len(resumed) == 13
    assert all(equal(a, b) for a, b in zip(whole[17:], resumed, strict=True))
    other = list(train_batches(divided, seed=4, first_step=0, last_step=30))
    assert not all(equal(a, b) for a, b in zip(whole, other, strict=True))
    assert equal(LoadTokens(divided, 3, 0, 1)(range(5, 6)), whole[5])


def test_each_bucket_is_shuffled_in_an_order_of_its_own():
    pairs = encode_pairs(text([], []), Vocabulary.train(["abc abd", "la la land", "bcd", "dab"], 275))
    batches = TokenBatches(pairs, (4, 8), (40, 40), 1, (np.arange(40), np.arange(40)), 0)  # one batch a bucket
    orders = dict(batches.ids_at(step, seed=0) for step in range(2))
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))
    assert orders[0].tolist() != orders[1].tolist()


def test_a_negative_seed_is_a_seed(divided):
    assert len(list(train_batches(divided, seed=-1, first_step=0, last_step=2))) == 2


def test_a_batch_fills_the_tokens_asked_for_and_goes_into_the_shortest_bucket(sentences, vocabulary):
    divided = divide(encode_pairs(sentences, vocabulary), BUCKETS, 100, multiple=3)
    assert divided.rows == (25, 12, 6)
    padded = {4: 27, 8: 12, 16: 6}
    for batch in eval_batches(divided):
        rows, length = batch["source"].shape
        assert batch["target"].shape == (rows, length + 1)
        assert rows == padded[length]
        longest = np.maximum(*((batch[side] != PAD_ID).sum(axis=1) - extra for side, extra in SIDES))
        shorter = [bucket for bucket in BUCKETS if bucket < length]
        assert (longest <= length).all()
        assert (longest[batch["mask"] > 0] > max(shorter, default=0)).all()


@pytest.mark.parametrize("multiple", [3, 8, 40])
def test_devices_and_micro_batches_change_no_batch(sentences, vocabulary, divided, multiple):
    other = divide(encode_pairs(sentences, vocabulary), BUCKETS, 64, multiple=multiple)
    batches, others = (list(train_batches(d, seed=1, first_step=3, last_step=3 + len(d))) for d in (divided, other))
    for batch, padded in zip(batches, others, strict=True):
        assert len(padded["mask"]) % multiple == 0
        real = batch["mask"] > 0
        assert equal({k: v[real] for k, v in batch.items()}, {k: v[padded["mask"] > 0] for k, v in padded.items()})


def test_processes_have_blocks_of_the_same_batch(sentences, vocabulary):
    divided = divide(encode_pairs(sentences, vocabulary), BUCKETS, 64, multiple=4)
    for make in (lambda **p: eval_batches(divided, **p), lambda **p: _train(divided, **p)):
        whole = list(make())
        parts = [list(make(process_index=i, process_count=4)) for i in range(4)]
        assert len({len(part) for part in parts}) == 1
        for batch, *shares in zip(whole, *parts, strict=True):
            joined = {key: np.concatenate([share[key] for share in shares]) for key in batch}
            assert equal(joined, batch)


def _train(divided, **processes):
    return train_batches(divided, seed=0, first_step=0, last_step=len(divided), **processes)


def test_the_share_of_padding_is_counted(divided):
    batches = list(eval_batches(divided))
    real = sum(
        int((batch[side] != PAD_ID).sum(axis=1)[batch["mask"] > 0].sum()) - extra * int(batch["mask"].sum())
        for batch in batches
        for side, extra in SIDES
    )
    assert divided.padding == pytest.approx(1 - real / (2 * sum(batch["source"].size for batch in batches)))


def test_encoding_in_pieces_changes_nothing(sentences, vocabulary, monkeypatch):
    whole, said = encode_pairs(sentences, vocabulary), []
    monkeypatch.setattr(token_batches, "CHUNK", 10)
    pieces = encode_pairs(sentences, vocabulary, lambda *progress: said.append(progress))
    for i, pair in enumerate(zip(sentences.sources, sentences.targets, strict=True)):
        for side, ours, theirs in zip(pair, whole.pair(i), pieces.pair(i), strict=True):
            assert ours.tolist() == theirs.tolist() == vocabulary.encode(side)
    assert said[0] == (10, 2 * 83)
    assert said[-1] == (2 * 83, 2 * 83)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buckets": ()}, "config.data.buckets"),
        ({"buckets": (8, 4)}, "increasing lengths"),
        ({"buckets": (1, 4)}, "of 2 tokens or more"),
        ({"batch_size": 15}, "15 tokens per side has no room for a sentence of 16 tokens"),
        ({"buckets": (2,)}, "no sentences left: 2 of 2 pairs are longer than 2 tokens"),
    ],
)
def test_what_cannot_be_divided_says_why(vocabulary, options, message):
    pairs = encode_pairs(text(["abcab", "ab ab"], ["la", "land"]), vocabulary)
    with pytest.raises(UserError, match=message):
        divide(pairs, **{"buckets": BUCKETS, "batch_size": 64, **options})


def test_no_sentences_at_all(vocabulary):
    with pytest.raises(UserError, match="there are no sentences"):
        divide(encode_pairs(text([], []), vocabulary), BUCKETS, 64)
