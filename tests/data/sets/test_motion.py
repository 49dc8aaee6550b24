"""The motion set: what its frames reveal about the label, and what they do not."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vit_jax.data.describe import describe
from vit_jax.data.sets.motion import CYCLE, MOTIONS, Motion, MotionConfig, draw_clip, load_objects, load_photos, render
from vit_jax.data.sets.prepare import prepare
from vit_jax.data.source import open_source
from vit_jax.errors import UserError

SMALL = MotionConfig(name="small", objects="digits", num_frames=6, image_size=(16, 16), pan=1, noise=4.0)
OPPOSITE = {"left": "right", "up": "down", "clockwise": "anticlockwise", "zoom_in": "zoom_out"}


def clips_of(config, split, count):
    objects, _ = load_objects(split, config, None)
    photos = load_photos(split, config)
    for index in range(count):
        clip = draw_clip(config, split, index, len(objects), len(photos))
        yield (
            clip,
            render(clip, config, objects[clip.object], photos[clip.photo]),
            (
                objects[clip.object],
                photos[clip.photo],
            ),
        )


@pytest.mark.parametrize("config", [SMALL, dataclasses.replace(SMALL, zoom=True, channels=3, image_size=(12, 20))])
def test_a_motion_backwards_is_the_opposite_motion(config):
    seen = set()
    for clip, video, drawn_from in clips_of(config, "train", 32):
        back = clip.reversed(config.num_frames)
        name, opposite = MOTIONS[clip.motion], MOTIONS[back.motion]
        assert OPPOSITE.get(name) == opposite or OPPOSITE.get(opposite) == name
        np.testing.assert_array_equal(render(back, config, *drawn_from), video[::-1])
        seen.add(name)
    assert seen == set(config.motions)


def test_fewer_frames_of_a_clip_are_its_first():
    longer, shorter = (dataclasses.replace(SMALL, noise=0, num_frames=frames) for frames in (6, 1))
    for (_, long, _), (_, short, _) in zip(*(clips_of(c, "test", 8) for c in (longer, shorter)), strict=True):
        assert len(short) == 1
        np.testing.assert_array_equal(short, long[:1])


def test_the_state_of_a_frame_is_uniform_whatever_the_motion():
    config = dataclasses.replace(SMALL, zoom=True)
    states: dict = {motion: [] for motion in config.motions}
    for index in range(8_000):
        clip = draw_clip(config, "train", index, 10, 2)
        states[MOTIONS[clip.motion]].append(clip.states(config.num_frames)[[0, -1]])
    for found in states.values():
        for frame in np.transpose(found, (1, 2, 0)):
            for component in frame:
                assert stats.kstest(component / CYCLE, "uniform").pvalue > 1e-4


def test_the_motion_is_in_the_order_of_the_frames_and_nowhere_else():
    """Classifiers of single frames, of frames in disorder and, to see that they can learn, of the frames in order."""
    config = dataclasses.replace(SMALL, pan=0, noise=0.0, contrast=0.3, shift=(0.06, 0.12), turn=(0.06, 0.12))
    frames, pairs, disordered, motions = [], [], [], []
    rng = np.random.default_rng(0)
    for clip, video, _ in clips_of(config, "train", 4_000):
        video = video[..., 0].astype(np.float32)
        frames.append(video[rng.integers(config.num_frames)].ravel())
        pairs.append(_movement(video))
        disordered.append(_movement(rng.permutation(video)))
        motions.append(clip.motion)
    labels = np.array(motions)

    accuracy, _, _ = _accuracy(np.array(frames), labels)
    assert _within_chance(accuracy, 1 / len(config.motions))
    _, family, direction = _accuracy(np.array(pairs), labels)
    assert family[0] > 0.5
    assert direction[0] > 0.75
    _, family, direction = _accuracy(np.array(disordered), labels)
    assert family[0] > 0.4
    assert _within_chance(direction, 1 / 2)


def _movement(video):
    """How well each frame, moved one way or turned, agrees with the next: features of order."""
    video = video - video.mean(0)
    moved = [np.roll(video, (down, across), (1, 2)) for down, across in ((0, -1), (0, 1), (-1, 0), (1, 0))]
    moved += [np.roll(video, (down, across), (1, 2)) for down, across in ((0, -2), (0, 2), (-2, 0), (2, 0))]
    vertical, horizontal = np.gradient(video, axis=(1, 2))
    change = np.diff(video, axis=0)
    rows, columns = np.indices(video.shape[1:])
    weight = np.abs(video) ** 2
    total = weight.sum((1, 2)) + 1e-6
    row = ((weight * rows).sum((1, 2)) / total)[:, None, None]
    column = ((weight * columns).sum((1, 2)) / total)[:, None, None]
    turning = (columns - column) * vertical - (rows - row) * horizontal
    features = [(one[:-1] * video[1:]).sum((1, 2)).mean() for one in moved]
    features += [(change * slope[:-1]).sum((1, 2)).mean() for slope in (vertical, horizontal, turning)]
    energies = [(slope**2).sum((1, 2)).mean() for slope in (change, vertical, horizontal, turning)]
    return features + energies


def _accuracy(features, labels):
    """Returns (accuracy, examples) on the second half, of the class, its family, and the class given its family."""
    half = len(labels) // 2
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    classifier.fit(features[:half], labels[:half])
    found, true = classifier.predict(features[half:]), labels[half:]
    same = found // 2 == true // 2
    right = found == true
    return (right.mean(), half), (same.mean(), half), (right[same].mean(), int(same.sum()))


def _within_chance(found, chance):
    accuracy, count = found
    return stats.binomtest(round(accuracy * count), count, chance).pvalue > 1e-3


def test_splits_share_nothing():
    config = dataclasses.replace(SMALL, grain=(1,))
    for load in (lambda split: load_objects(split, config, None)[0], lambda split: _strips(load_photos(split, config))):
        train, test = ({piece.tobytes() for piece in load(split)} for split in ("train", "test"))
        assert train
        assert test
        assert not train & test


def _strips(photos):
    return [column for photo in photos for column in photo.swapaxes(0, 1)]


def test_a_prepared_set_has_the_clips_as_drawn_and_two_labels(tmp_path):
    by_motion = open_source("motion/digits_tiny", "test", data_dir=str(tmp_path))  # prepared on first use
    by_object = open_source("motion/digits_tiny", "test", data_dir=str(tmp_path), label="object")
    assert by_motion.labels == MOTIONS[:6]
    assert by_object.labels == tuple("0123456789")
    (config,) = (config for config in Motion.BUILDER_CONFIGS if config.name == "digits_tiny")
    assert len(by_motion) == config.test_clips
    _, objects = load_objects("test", config, None)
    for index, (clip, drawn, _) in enumerate(clips_of(config, "test", 7)):
        (example,) = by_motion.__getitems__([index])
        np.testing.assert_array_equal(example["video"].frames, drawn)
        assert (example["label"], example["id"]) == (clip.motion, index)
        assert by_object.__getitems__([index])[0]["label"] == objects[clip.object]
    with pytest.raises(UserError, match="no labels 'objects'; did you mean 'object'"):
        open_source("motion/digits_tiny", "test", data_dir=str(tmp_path), label="objects")
    info = describe("motion/digits_tiny", data_dir=str(tmp_path))["splits"]
    assert info["train"]["images"] == {"4 frames of 16x16 L": 200}
    assert info["test"]["class_counts"] == [20] * 6


def test_an_unknown_set_of_motions_is_named_with_those_there_are(tmp_path):
    with pytest.raises(UserError, match=r"no data set 'motion/digit'; there are motion/fashion, .*did you mean"):
        prepare("motion/digit", str(tmp_path))
    with pytest.raises(UserError, match=r"Fashion-MNIST: .* are not all in"):
        prepare("motion/fashion", str(tmp_path), str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0.5, 0.9)}, "motion: size"),
        ({"turn": (0.0, 0.1)}, "motion: turn"),
        ({"objects": "cats"}, "fashion or digits"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"train_clips": 10**7}, "larger than"),
    ],
)
def test_refuses_what_cannot_be_drawn(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **change).check()
