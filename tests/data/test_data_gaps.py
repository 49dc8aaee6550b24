"""Batches of sentences and images: their order and their random augmentation change from epoch to epoch."""

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.loading import pipeline
from vit_jax.data.text import batches as text_batches
from vit_jax.data.text.batches import TokenPairs, divide

LENGTHS = [3, 3, 3, 3, 3, 3, 7, 7, 7, 7, 15, 15]  # of sentences without their end: buckets of 4, 8 and 16


@pytest.fixture(scope="module")
def divided():
    ends = np.concatenate([[0], np.cumsum(LENGTHS)])
    tokens = np.arange(ends[-1], dtype=np.int32) + 10
    return divide(TokenPairs((tokens, tokens), (ends, ends)), (4, 8, 16), 16)


def epoch_of(divided, epoch, seed=0):
    """Returns the (bucket, ids) of an epoch's batches."""
    first = epoch * len(divided)
    return [
        (bucket, tuple(ids.tolist())) for bucket, ids in (divided.ids_at(first + i, seed) for i in range(len(divided)))
    ]


def test_an_epoch_has_every_pair_once_in_batches_of_its_bucket(divided):
    assert (
        len(divided) == 2 + 2 + 2
    )  # 16 tokens hold four pairs of the first bucket, two of the second, one of the last
    for epoch in range(3):
        drawn = epoch_of(divided, epoch)
        assert sorted(i for _, ids in drawn for i in ids) == list(range(12))
        assert all(
            {0: range(6), 1: range(6, 10), 2: range(10, 12)}[bucket].__contains__(i)
            for bucket, ids in drawn
            for i in ids
        )
        assert sorted(len(ids) for _, ids in drawn) == [1, 1, 2, 2, 2, 4]


def test_buckets_come_in_another_order_every_epoch_and_for_every_seed(divided):
    orders = [tuple(bucket for bucket, _ in epoch_of(divided, epoch)) for epoch in range(8)]
    assert len(set(orders)) > 4
    seeds = [tuple(bucket for bucket, _ in epoch_of(divided, 0, seed)) for seed in range(8)]
    assert len(set(seeds)) > 4
    assert any(list(order) != sorted(order) for order in orders)


def test_pairs_of_a_bucket_are_shuffled_anew_every_epoch(divided):
    together = [
        frozenset(frozenset(ids) for bucket, ids in epoch_of(divided, epoch) if bucket == 0) for epoch in range(8)
    ]
    assert len(set(together)) > 3


def test_two_buckets_of_a_size_are_shuffled_apart():
    lengths = [3] * 8 + [7] * 8
    ends = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.zeros(ends[-1], np.int32)
    divided = divide(TokenPairs((tokens, tokens), (ends, ends)), (4, 8), 8)
    first, second = (
        [ids for b, ids in (divided.ids_at(i, 0) for i in range(len(divided))) if b == bucket] for bucket in (0, 1)
    )
    assert np.concatenate(first).tolist() != (np.concatenate(second) - 8).tolist()


def test_evaluation_goes_in_order_the_shorter_first(divided):
    drawn = [(bucket, ids.tolist()) for bucket, ids in (divided.ids_at(i, None) for i in range(len(divided)))]
    assert drawn == [(0, [0, 1, 2, 3]), (0, [4, 5]), (1, [6, 7]), (1, [8, 9]), (2, [10]), (2, [11])]


def test_a_pair_fits_with_its_end_and_no_tighter():
    ends = np.array([0, 3, 7, 22, 38])  # 3, 4, 15 and 16 tokens: 4, 5, 16 and 17 with the end
    tokens = np.zeros(38, np.int32)
    divided = divide(TokenPairs((tokens, tokens), (ends, ends)), (4, 8, 16), 32)
    assert [ids.tolist() for ids in divided.ids] == [[0], [1], [2]]
    assert (divided.skipped, divided.rows) == (1, (8, 4, 2))


def test_a_batch_of_text_is_tokens_between_beginning_and_end(divided):
    load = text_batches.LoadTokens(divided, None, 0, 1)
    batch = load(range(1, 2))  # pairs 4 and 5 of three tokens each
    begin, end, pad = text_batches.BOS_ID, text_batches.EOS_ID, text_batches.PAD_ID
    assert batch["source"].tolist() == [
        [22, 23, 24, end],
        [25, 26, 27, end],
        [end, pad, pad, pad],
        [end, pad, pad, pad],
    ]
    assert batch["target"][:2].tolist() == [[begin, 22, 23, 24, end], [begin, 25, 26, 27, end]]
    assert batch["target"][2].tolist() == [begin, end, pad, pad, pad]
    assert (batch["mask"].tolist(), batch["id"].tolist()) == ([1, 1, 0, 0], [4, 5, -1, -1])


class Greys:
    """Images of one grey each, the example's number."""

    name, kind, split, labels, skipped = "greys", "image", "train", ("a", "b"), []

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitems__(self, indices):
        pixels = np.arange(4, dtype=np.uint8).reshape(2, 2)
        return [{"image": Image.fromarray(pixels + 4 * i), "label": i % 2, "id": i} for i in map(int, indices)]


def train_batches(count=6, transforms="flip", **options):
    preprocessing = Preprocessing((2, 2), 1, f"{transforms}|normalize(mean=0.0, std=1.0)")
    options = {"batch_size": 4, "seed": 0, "first_step": 0, "last_step": 6, **options}
    batches = pipeline.train_batches(Greys(count), preprocessing, **options)
    return [{name: np.asarray(value) for name, value in batch.items()} for batch in batches]


def test_an_image_is_changed_anew_every_epoch():
    """Six images, four epochs: each is seen mirrored and not."""
    flipped = {i: set() for i in range(6)}
    for batch in train_batches(last_step=12):
        for image, i in zip(batch["image"], batch["id"], strict=True):
            flipped[int(i)].add(bool(image[0, 0, 0] > image[0, 1, 0]))
    assert sum(len(seen) == 2 for seen in flipped.values()) >= 4


def test_two_images_of_a_batch_are_not_changed_alike():
    flips = [
        tuple(image[0, 0, 0] > image[0, 1, 0] for image in batch["image"]) for batch in train_batches(last_step=12)
    ]
    assert sum(len(set(batch)) == 2 for batch in flips) >= 6


def test_an_epoch_ends_in_the_middle_of_a_batch_and_the_next_begins_there():
    ids = np.concatenate([batch["id"] for batch in train_batches()])
    assert [sorted(ids[start : start + 6].tolist()) for start in (0, 6, 12, 18)] == [list(range(6))] * 4
    assert ids[:6].tolist() != ids[6:12].tolist() != ids[12:18].tolist()


def test_labels_and_ids_are_those_of_the_image():
    for batch in train_batches():
        np.testing.assert_array_equal(np.round(batch["image"].min((1, 2, 3)) * 255 / 4), batch["id"])
        np.testing.assert_array_equal(batch["label"], batch["id"] % 2)
        assert batch["mask"].tolist() == [1.0] * 4


@pytest.mark.parametrize("process_count", [2, 4])
def test_process_i_has_the_i_th_block(process_count):
    whole = train_batches()
    parts = [train_batches(process_index=i, process_count=process_count) for i in range(process_count)]
    for step, batch in enumerate(whole):
        for key, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[step][key] for part in parts]), value)


def test_repeats_come_in_a_row_and_each_is_changed_by_itself():
    batches = train_batches(count=8, batch_size=8, repeats=2, last_step=8)
    for batch in batches:
        np.testing.assert_array_equal(batch["id"][0::2], batch["id"][1::2])
    alike = [np.array_equal(batch["image"][i], batch["image"][i + 1]) for batch in batches for i in range(0, 8, 2)]
    assert 8 < sum(alike) < 24
