import json
import pickle

import numpy as np
import pytest
from PIL import Image

from tests.data.video.make_sampling_goldens import GOLDENS
from vit_jax.data.image import geometry
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.video.clips import ClipPreprocessing
from vit_jax.data.video.decode import ArrayVideo
from vit_jax.errors import UserError

NORMALIZE = "normalize(mean=0.5, std=0.5)"


def video(frames=10, height=12, width=16, channels=3, seed=0, name="clip 3"):
    values = np.random.default_rng(seed).integers(0, 256, (frames, height, width, channels), dtype=np.uint8)
    return ArrayVideo(values, 25.0, name)


def clips(transforms=NORMALIZE, num_frames=4, image_size=(12, 16), channels=3, sampling="first", **views):
    return ClipPreprocessing(num_frames, image_size, channels, sampling, transforms, **views)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_clip_is_its_frames_in_order(channels):
    stored = video(channels=channels)
    (clip,) = clips(channels=channels, sampling="stride(frames=2)").rows(stored, None)
    assert clip.dtype == np.float32
    np.testing.assert_allclose(clip, (stored.frames[1:9:2] / 255 - 0.5) / 0.5, atol=1e-6)


def test_channels_are_converted():
    (grey,) = clips(channels=1).rows(video(channels=3), None)
    expected = [np.asarray(Image.fromarray(frame).convert("L")) for frame in video(channels=3).frames[:4]]
    np.testing.assert_allclose(grey[..., 0], np.array(expected) / 127.5 - 1, atol=1e-6)
    (colour,) = clips(channels=3).rows(video(channels=1), None)
    assert np.all(colour[..., :1] == colour)


@pytest.mark.parametrize(
    "transforms",
    [
        f"random_crop|{NORMALIZE}",
        f"random_resized_crop|{NORMALIZE}",
        f"inception_crop|flip|{NORMALIZE}",
        f"random_resize(10, 14)|random_crop|{NORMALIZE}",
        f"resize|color_jitter(hue=0.2)|{NORMALIZE}",
        f"resize|randaugment('rand-m9-n4-mstd0.5')|{NORMALIZE}",
        f"resize|randaug(4, 15)|{NORMALIZE}",
        f"resize|random_affine|{NORMALIZE}|random_erasing(p=0.9)",
    ],
)
def test_all_frames_of_a_clip_meet_the_same_random_numbers(transforms):
    still = ArrayVideo(np.repeat(video(1).frames, 6, axis=0), 25.0)
    preprocessing = clips(transforms, num_frames=6, image_size=(8, 8), sampling="stride(frames=1)")
    rows = [preprocessing.rows(still, rng(seed)) for seed in range(12)]
    assert all(len(row) == 1 for row in rows)
    for (clip,) in rows:
        assert clip.shape == (6, 8, 8, 3)
        np.testing.assert_array_equal(clip, np.repeat(clip[:1], 6, axis=0))
    assert len({clip.tobytes() for (clip,) in rows}) > 3


def test_each_frame_is_what_preprocessing_makes_of_it():
    transforms = f"random_crop|flip|color_jitter|{NORMALIZE}|random_erasing(p=0.5)"
    stored, alone = video(), Preprocessing((8, 8), 3, transforms)
    for seed in range(5):
        (clip,) = clips(transforms, image_size=(8, 8)).rows(stored, rng(seed))
        frames = [alone(Image.fromarray(frame), rng(seed)) for frame in stored.frames[:4]]
        np.testing.assert_array_equal(clip, np.stack(frames))


def test_training_gives_one_random_clip_whatever_the_views():
    training = clips(f"center_crop|{NORMALIZE}", image_size=(8, 8), sampling="stride(frames=1)", clips=3, crops=3)
    rows = [training.rows(video(), rng(seed)) for seed in range(20)]
    assert all(len(row) == 1 for row in rows)
    assert len({row[0].tobytes() for row in rows}) == 7


def test_views_are_clips_times_crops():
    stored = video(10, height=8, width=20)
    preprocessing = clips(f"center_crop|{NORMALIZE}", 2, (8, 8), sampling="stride(frames=4)", clips=2, crops=3)
    rows = preprocessing.rows(stored, None)
    assert preprocessing.views == len(rows) == 6
    expected = [stored.frames[list(clip), :, left : left + 8] for clip in ((0, 4), (5, 9)) for left in (0, 6, 12)]
    np.testing.assert_allclose(rows, np.array(expected) / 127.5 - 1, atol=1e-6)


def test_three_crops_are_the_authors():
    for row in json.loads(GOLDENS.read_text())["crops"]:
        height, width = row["image"]
        numbers = np.arange(height * width, dtype=np.int32).reshape(height, width)
        corner = geometry.PlacedCrop(row["size"], row["index"], 3)(Image.fromarray(numbers), None).getpixel((0, 0))
        assert list(divmod(corner, width)) == row["corner"], row


def test_crops_of_an_upright_video_go_from_top_to_bottom():
    stored = video(1, height=21, width=8)
    rows = clips(f"center_crop|{NORMALIZE}", 1, (8, 8), crops=5).rows(stored, None)
    expected = [stored.frames[:, top : top + 8] for top in (0, 4, 7, 10, 13)]
    np.testing.assert_allclose(rows, np.array(expected) / 127.5 - 1, atol=1e-6)


def test_one_crop_is_the_center_crop_of_images():
    stored = video(4, height=9, width=13)
    transforms = f"center_crop|{NORMALIZE}"
    (clip,) = clips(transforms, image_size=(8, 8)).rows(stored, None)
    alone = Preprocessing((8, 8), 3, transforms)
    np.testing.assert_array_equal(clip, [alone(Image.fromarray(frame), None) for frame in stored.frames])


def test_every_frame_is_read_and_changed_once():
    class Counted(ArrayVideo):
        asked = ()

        def read(self, indices):
            self.asked = (*self.asked, *indices)
            return super().read(indices)

    stored = Counted(video(3).frames, 25.0)
    (clip,) = clips(num_frames=8).rows(stored, None)
    assert stored.asked == (0, 1, 2)
    np.testing.assert_array_equal(clip[2:], np.repeat(clip[2:3], 6, axis=0))


def test_it_says_what_the_rest_needs_to_know():
    preprocessing = clips(f"random_crop|flip|{NORMALIZE}", clips=1)
    assert (preprocessing.key, preprocessing.views) == ("video", 1)
    assert preprocessing.random_transforms == ("random_crop", "flip")
    assert preprocessing.is_random
    assert preprocessing.model_fields == {"num_frames": 4, "image_size": (12, 16), "in_channels": 3}
    assert not clips().is_random
    image = Preprocessing((12, 16), 1, NORMALIZE)
    assert (image.key, image.views) == ("image", 1)
    assert image.model_fields == {"image_size": (12, 16), "in_channels": 1}
    (row,) = image.rows(Image.new("L", (16, 12), 255), None)
    np.testing.assert_array_equal(row, np.ones((12, 16, 1)))


def test_it_is_data():
    preprocessing = clips(f"center_crop|{NORMALIZE}", sampling="segments", clips=2, crops=3)
    again = ClipPreprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict())))
    copy = pickle.loads(pickle.dumps(preprocessing))
    assert preprocessing == again == copy
    np.testing.assert_array_equal(preprocessing.rows(video(), None), copy.rows(video(), None))
    assert preprocessing != clips(f"center_crop|{NORMALIZE}", sampling="segments", clips=2)


def test_a_random_chain_without_a_generator_is_refused():
    with pytest.raises(UserError, match="clip 3: flip: random, but no random generator"):
        clips(f"flip|{NORMALIZE}").rows(video(), None)


def test_a_frame_of_another_size_is_refused_by_the_name_of_its_video():
    with pytest.raises(UserError, match="clip 3: an image of 12x16 pixels became 12x16, not 8x8"):
        clips(image_size=(8, 8)).rows(video(), None)
    with pytest.raises(UserError, match=r"clip 3: center_crop: the image \(12x16\) is smaller than 20x20"):
        clips(f"center_crop|{NORMALIZE}", image_size=(20, 20), crops=3).rows(video(), None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_frames": 0}, "config.data.num_frames must be a whole number above 0, not 0"),
        ({"num_frames": 8.0}, "config.data.num_frames must be a whole number above 0, not 8.0"),
        ({"clips": 0}, "config.data.eval_clips must be a whole number above 0, not 0"),
        ({"crops": True}, "config.data.eval_crops must be a whole number above 0, not True"),
        ({"crops": 3}, "config.data.eval_crops=3 needs a 'center_crop'"),
        ({"clips": 2}, "config.data.eval_clips=2, but config.data.sampling='first' takes a single clip"),
        ({"sampling": "secnds"}, "config.data.sampling='secnds': unknown sampling"),
        ({"transforms": f"flop|{NORMALIZE}"}, "unknown transform 'flop'; did you mean 'flip'?"),
        ({"channels": 2}, "channels must be 1 (grey) or 3 (RGB)"),
        ({"image_size": (8, 0)}, "image_size must be (height, width)"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(wrong, message):
    with pytest.raises(UserError) as caught:
        clips(**wrong)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
