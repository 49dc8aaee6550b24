import json
import pickle
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from tests.data.video.make_sampling_goldens import GOLDENS
from vit_jax.data.video.decode import ArrayVideo
from vit_jax.data.video.sampling import Stride, parse_sampling
from vit_jax.errors import UserError


class Times:
    """A video without pixels: the times of its frames. The last frame lasts as long as the mean."""

    name = "times"

    def __init__(self, times):
        self.times = list(times)
        self.num_frames = len(self.times)
        self.seconds = self.times[-1] * self.num_frames / max(self.num_frames - 1, 1) if self.num_frames > 1 else 0.04
        self.fps = self.num_frames / self.seconds

    def index_at(self, seconds):
        return max(sum(time <= seconds + 1e-9 for time in self.times) - 1, 0)

    def read(self, indices):
        raise AssertionError("sampling reads no frame")


def regular(num_frames, fps=25.0):
    video = Times(np.arange(num_frames) / fps)
    video.seconds, video.fps = num_frames / fps, fps
    return video


def goldens(name):
    return json.loads(GOLDENS.read_text())[name]


def rngs(count):
    return (np.random.default_rng(seed) for seed in range(count))


def test_stride_with_fps_is_the_authors_decoder():
    rows = goldens("stride")
    assert len(rows) > 150
    for row in rows:
        num_frames, fps = row["video"]
        sampling = parse_sampling(f"stride(frames={row['stride']}, fps=30, centre=False)")
        video = regular(num_frames, float(Fraction(fps)))
        assert sampling(video, row["num_frames"], None, *row["clip"]) == row["indices"], row


def test_segments_are_the_authors():
    for row in goldens("segments"):
        assert parse_sampling("segments")(regular(row["length"]), row["num_frames"], None) == row["indices"], row


def test_the_one_clip_of_a_test_is_the_centre():
    video = regular(300, 30.0)
    for sampling in ("stride(frames=10)", "stride(seconds=0.5)", "stride(frames=10, fps=30)"):
        indices = parse_sampling(sampling)(video, 8, None)
        assert indices[0] == pytest.approx(299 - indices[-1], abs=4)
    from_start = parse_sampling("stride(frames=10, centre=False)")(video, 8, None)
    assert from_start == list(range(0, 80, 10))


@pytest.mark.parametrize(("frames", "expected"), [(1, [9, 10, 11, 12]), (5, [3, 8, 13, 18]), (7, [0, 7, 14, 21])])
def test_stride_in_frames(frames, expected):
    assert parse_sampling(f"stride({frames})")(regular(22), 4, None) == expected


def test_clips_in_testing_go_from_the_first_frame_to_the_last():
    clips = [parse_sampling("stride(frames=3)")(regular(30), 4, None, clip, 5) for clip in range(5)]
    assert [clip[0] for clip in clips] == [0, 5, 10, 15, 20]
    assert clips[-1] == [20, 23, 26, 29]
    clips = [parse_sampling("stride(seconds=1)")(regular(250), 4, None, clip, 3) for clip in range(3)]
    assert [clip[0] for clip in clips] == [0, 87, 175]
    assert clips[2] == [175, 200, 225, 249]
    clips = [parse_sampling("segments")(regular(41), 4, None, clip, 3) for clip in range(3)]
    assert clips == [[2, 12, 22, 32], [5, 15, 25, 35], [7, 17, 27, 37]]


def test_stride_in_seconds_follows_the_time_stamps():
    times = np.cumsum([0, *np.random.default_rng(0).uniform(0.01, 0.2, 99)])
    video = Times(times)
    start = (video.seconds - 7 * 0.7) / 2
    expected = [int(np.flatnonzero(times <= start + step * 0.7)[-1]) for step in range(8)]
    assert parse_sampling("stride(seconds=0.7)")(video, 8, None) == expected
    assert len(set(np.diff(expected))) > 1


def test_training_starts_anywhere_and_stays_inside():
    counts = Counter(tuple(parse_sampling("stride(frames=4)")(regular(20), 4, rng)) for rng in rngs(2000))
    assert sorted(counts) == [tuple(range(start, start + 13, 4)) for start in range(8)]
    assert max(counts.values()) < 1.4 * min(counts.values())
    starts = [parse_sampling("stride(seconds=0.2)")(regular(50), 4, rng)[0] for rng in rngs(2000)]
    assert set(starts) == set(range(35))


def test_training_with_fps_draws_the_authors_starts():
    """Uniform from 0 to the frames left over, rounded up to a frame; the rest is that of testing."""
    video, sampling = regular(300, 30.0), parse_sampling("stride(frames=32, fps=30)")
    offsets = np.subtract(sampling(video, 8, None), sampling(video, 8, None)[0])
    starts = []
    for rng in rngs(3000):
        indices = sampling(video, 8, rng)
        starts.append(indices[0])
        assert indices == [min(start, 299) for start in (indices[0] + offsets).tolist()]
    assert set(starts) <= set(range(45))
    counts = np.bincount(starts, minlength=45)[1:]
    assert counts.min() > 30
    assert counts.max() < 110


def test_training_segments_are_uniform_within_each():
    drawn = np.array([parse_sampling("segments")(regular(41), 4, rng) for rng in rngs(1500)])
    for segment in range(4):
        frames, counts = np.unique(drawn[:, segment], return_counts=True)
        assert frames.tolist() == list(range(10 * segment, 10 * segment + 11))
        assert counts.max() < 1.7 * counts.min()


@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_short_video_ends_with_its_last_frame_repeated(length, rng):
    samplings = ("stride(frames=1)", "stride(frames=2, fps=25)", "stride(seconds=1)", "first")
    for sampling in samplings:
        indices = parse_sampling(sampling)(regular(length), 8, rng)
        assert len(indices) == 8
        assert indices[0] == 0
        assert indices == sorted(indices)
        assert indices[-1] == length - 1
    assert parse_sampling("first")(regular(length), 4, rng) == [*range(length), *[length - 1] * 4][:4]
    segments = parse_sampling("segments")(regular(length), 8, rng)
    assert set(segments) <= set(range(length))
    assert segments == sorted(segments)


def test_the_same_generator_gives_the_same_frames():
    for sampling in ("stride(frames=3)", "stride(frames=3, fps=30)", "stride(seconds=0.1)", "segments"):
        first, second = (parse_sampling(sampling)(regular(90), 8, np.random.default_rng(5)) for _ in range(2))
        assert first == second


def test_a_video_without_a_rate_has_frames_all_the_same():
    video = ArrayVideo(np.zeros((20, 2, 2, 3), np.uint8), 0.0, "mine train 3")
    for sampling in ("stride(frames=32, fps=30)", "stride(seconds=1)"):
        with pytest.raises(UserError, match=r"^mine train 3: .* set config\.data\.sampling to 'stride"):
            parse_sampling(sampling)(video, 4, None)
    assert parse_sampling("stride(frames=5)")(video, 4, None) == [2, 7, 12, 17]
    assert parse_sampling("first")(video, 4, None) == [0, 1, 2, 3]
    assert len(parse_sampling("segments")(video, 4, np.random.default_rng(0))) == 4


def test_a_sampling_is_data():
    assert parse_sampling("stride(frames=32, fps=30)") == Stride(32, 30)
    assert pickle.loads(pickle.dumps(parse_sampling("stride(seconds=0.5)"))) == Stride(seconds=0.5)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ("stide(frames=2)", "unknown sampling 'stide'; did you mean 'stride'?"),
        ("stride", "stride: frames must be a whole number above 0, not 0"),
        ("stride(frames=1.5)", "stride: frames must be a whole number above 0, not 1.5"),
        ("stride(frames=2, fps=0)", "stride: fps must be above 0, not 0"),
        ("stride(seconds=-1)", "stride: seconds must be above 0, not -1"),
        ("stride(seconds=1, frames=2)", "without frames and fps"),
        ("stride(frame=2)", "stride: unknown argument 'frame'; did you mean 'frames'?"),
        ("segments(3)", "segments: takes 1 positional argument"),
        ("first(n=3)", "first: unknown argument 'n'; it takes none"),
        ("first|segments", "use one of first, segments, stride, not a chain"),
        ("stride(frames=", "'(' was never closed"),
        ("stride(frames=__import__('os'))", "is not a number, a string or a tuple"),
        ("", "invalid syntax"),
    ],
)
def test_a_wrong_sampling_is_refused_by_its_key(sampling, message):
    with pytest.raises(UserError) as caught:
        parse_sampling(sampling)
    assert str(caught.value).startswith(f"config.data.sampling={sampling!r}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
