"""Levels: batches hold 8-bit levels, and their floats are those of the chain of transforms."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from vit_jax.data.image.arguments import Transform
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.loading.assembly import arrays_of
from vit_jax.data.loading.levels import Levels, as_floats
from vit_jax.data.loading.pipeline import LoadBatch, eval_batches
from vit_jax.data.loading.workers import Workers
from vit_jax.data.video.clips import ClipPreprocessing
from vit_jax.data.video.decode import ArrayVideo
from vit_jax.devices.parallel import make_parallel, micro_batches
from vit_jax.errors import UserError
from vit_jax.evaluate import Evaluator

IMAGENET = "normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"


class Noise:
    """A source of ten images of 9 x 7 pixels with random levels."""

    name, split, labels, skipped, kind = "noise", "train", ("a", "b"), [], "image"

    def __len__(self):
        return 10

    def __getitems__(self, indices):
        return [{"image": self.image(index), "label": index % 2, "id": index} for index in indices]

    def image(self, index):
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, (7, 9, 3), np.uint8))


def batch_of(chain, seed=0):
    source: Any = Noise()
    return LoadBatch(source, Preprocessing((7, 9), 3, chain), 10, 0, 1, seed=seed)(range(10))


def expected(levels, mean, std):
    return (levels / 255.0 - np.array(mean)) / np.array(std)  # float64


@pytest.mark.parametrize("strategy", ["pmap", "fsdp"])
def test_devices_see_the_numbers_of_normalize_within_rounding(strategy):
    batch = batch_of(IMAGENET)
    levels = np.stack([np.asarray(Noise().image(index)) for index in batch["id"]])
    assert batch["image"].values.dtype == np.uint8
    np.testing.assert_array_equal(batch["image"].values, levels)
    truth = expected(levels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    evaluator = Evaluator(None, None, make_parallel(strategy))  # pyright: ignore[reportArgumentType]
    (rows,) = evaluator.rows({}, [batch], lambda model, params, batch: {"image": batch["image"]})
    assert rows["image"].dtype == np.float32
    np.testing.assert_allclose(rows["image"], truth, rtol=2e-6, atol=1e-6)


def test_numpy_reads_exactly_what_rows_computes():
    batch, encoder = batch_of(f"flip|{IMAGENET}", seed=3), Preprocessing((7, 9), 3, f"flip|{IMAGENET}")
    for position, example_id in enumerate(batch["id"]):
        rng = np.random.Generator(np.random.Philox(key=[3, position]))
        (row,) = encoder.rows(Noise().image(example_id), rng)
        np.testing.assert_array_equal(np.asarray(batch["image"])[position], row)
    assert np.asarray(batch["image"], np.float64).dtype == np.float64


def test_levels_take_a_quarter_of_the_bytes():
    floats = batch_of(f"{IMAGENET}|random_erasing(p=1e-9)")["image"]
    assert (floats.dtype, floats.shape) == (np.float32, (10, 7, 9, 3))
    assert 4 * batch_of(IMAGENET)["image"].values.nbytes == floats.nbytes


def test_a_chain_that_goes_on_after_normalize_keeps_its_floats():
    chain = f"{IMAGENET}|random_erasing(p=1.0)"
    batch, encoder = batch_of(chain), Preprocessing((7, 9), 3, chain)
    rng = np.random.Generator(np.random.Philox(key=[0, 4]))
    np.testing.assert_array_equal(batch["image"][4], encoder(Noise().image(batch["id"][4]), rng))


def test_micro_batches_and_padding_keep_rows_together():
    batch = batch_of("normalize(0.5, 0.25)")
    split = micro_batches(batch, 5)
    assert [array.shape[:2] for array in arrays_of(split)] == [(5, 2)] * 6
    first = as_floats(jax.tree.map(lambda x: x[1], split))
    np.testing.assert_array_equal(first["image"], np.asarray(batch["image"])[[1, 6]])
    source: Any = Noise()
    evaluation = LoadBatch(source, Preprocessing((7, 9), 3, "normalize(0.5, 0.25)"), 4, 0, 1)(range(8, 12))
    assert evaluation["id"].tolist() == [8, 9, -1, -1]
    assert not np.asarray(evaluation["image"])[2:].any()


def test_the_views_of_clips_are_levels_of_their_rows():
    frames = np.random.default_rng(0).integers(0, 256, (6, 8, 12, 3), np.uint8)
    clips = ClipPreprocessing(2, (8, 8), 3, "segments", "center_crop|normalize(0.4, 0.2)", clips=2, crops=3)
    video = ArrayVideo(frames, 10.0)
    levels = clips.finish(np.stack(clips.batch_rows(video, None)))
    assert isinstance(levels, Levels)
    assert levels.values.shape == (6, *clips.row_shape)
    np.testing.assert_array_equal(np.asarray(levels), np.stack(clips.rows(video, None)))


def test_parts_with_several_views_are_put_together_in_order():
    class Clips(Noise):
        kind = "video"

        def __getitems__(self, indices):
            pixels = [np.random.default_rng(index).integers(0, 256, (6, 8, 12, 3), np.uint8) for index in indices]
            return [{"video": ArrayVideo(p, 10.0), "label": 0, "id": i} for p, i in zip(pixels, indices, strict=True)]

    encoder = ClipPreprocessing(2, (8, 8), 3, "segments", "center_crop|normalize(0.4, 0.2)", clips=2, crops=3)
    source: Any = Clips()
    (batch,) = eval_batches(source, encoder, batch_size=12, workers=Workers(0, 5))
    whole = LoadBatch(source, encoder, 12, 0, 1)(range(12))
    assert batch["id"].tolist() == whole["id"].tolist() == np.repeat([*range(10), -1, -1], 6).tolist()
    np.testing.assert_array_equal(np.asarray(batch["video"]), np.asarray(whole["video"]))


@dataclasses.dataclass(frozen=True)
class Floats(Transform):
    """A transform of a user's own that returns no 8-bit image."""

    def __call__(self, image, rng):
        return image.convert("L").convert("F")


def test_levels_of_more_than_8_bits_are_refused():
    encoder = Preprocessing((7, 9), 3, f"{Floats.__module__}.Floats|normalize(0.5, 0.5)")
    with pytest.raises(UserError, match="returned an image of mode 'F' instead of L or RGB"):
        encoder(Noise().image(0), None)
