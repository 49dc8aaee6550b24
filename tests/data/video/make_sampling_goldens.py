"""Records which frames and crops the authors' TimeSformer code samples.

    python -m tests.data.video.make_sampling_goldens

Needs torch and a clone of TimeSformer in the folder that `VIT_JAX_AUTHORS` names. A stand-in for a file lets their
decoder see a video whose frames say their own numbers. Only settings and numbers are written.
"""

import importlib
import json
import os
import pathlib
import sys
import types
from fractions import Fraction
from unittest import mock

import numpy as np

GOLDENS = pathlib.Path(__file__).parent / "sampling_goldens.json"
FILES = (
    (300, Fraction(30), 512),
    (300, Fraction(30000, 1001), 1001),
    (250, Fraction(25), 512),
    (600, Fraction(60), 256),
)
SHORT_FILES = ((150, Fraction(30), 512), (61, Fraction(15), 1024), (1, Fraction(30), 512))
CLIPS = ((8, 32), (16, 16), (96, 4))  # TimeSformer, HR and L: frames, stride


class FakeFile:
    """A container, its stream, the codec: all that the authors' decoder asks for."""

    def __init__(self, num_frames, fps, ticks):
        self.frames, self.average_rate, self.ticks = num_frames, fps, ticks
        self.time_base, self.duration = 1 / (fps * ticks), num_frames * ticks
        self.streams = types.SimpleNamespace(video=[self])

    def seek(self, *args, **kwargs): ...

    def close(self): ...

    def decode(self, video):
        for number in range(self.frames):
            frame = mock.Mock(pts=number * self.ticks)
            frame.to_rgb().to_ndarray.return_value = np.full((1, 1, 1), number)
            yield frame


def authors_modules():
    """Imports their modules of data; what these import for other purposes need not be installed."""
    root = pathlib.Path(os.environ["VIT_JAX_AUTHORS"]) / "TimeSformer/timesformer"
    registry = mock.Mock(DATASET_REGISTRY=mock.Mock(register=lambda: lambda kind: kind))
    for name in ("timesformer", "timesformer.datasets", "timesformer.utils"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(root.parent / name.replace(".", "/"))]
    for name in ("fvcore", "fvcore.common", "fvcore.common.file_io", "cv2", "torchvision", "torchvision.io"):
        sys.modules[name] = mock.MagicMock()
    sys.modules["timesformer.datasets.build"] = registry
    sys.modules["timesformer.utils.logging"] = mock.MagicMock()
    return [importlib.import_module(f"timesformer.datasets.{name}") for name in ("decoder", "ssv2", "transform")]


def strides(decoder):
    for num_frames, fps, ticks in (*FILES, *SHORT_FILES):
        for frames, stride in CLIPS:
            for num_clips in (1, 3, 10) if frames == 8 else (1, 3):
                for clip in range(num_clips):
                    file = FakeFile(num_frames, fps, ticks)
                    taken = decoder.decode(file, stride, frames, clip, num_clips, target_fps=30)
                    yield {
                        "video": [num_frames, str(fps)],
                        "num_frames": frames,
                        "stride": stride,
                        "clip": [clip, num_clips],
                        "indices": taken.flatten().tolist(),
                    }


def segments(ssv2):
    for length in (1, 5, 8, 17, 48, 100, 333):
        for frames in (8, 16, 64):
            data = mock.Mock(NUM_FRAMES=frames, TEST_CROP_SIZE=224, MEAN=0.0, STD=1.0)
            cfg = mock.Mock(DATA=data, TEST=mock.Mock(NUM_SPATIAL_CROPS=1))
            videos = [list(range(length))]
            example = mock.Mock(cfg=cfg, mode="test", _labels=[0], _path_to_videos=videos, _spatial_temporal_idx=[0])
            with mock.patch.object(ssv2, "utils") as utils, mock.patch.object(ssv2, "torch"):
                ssv2.Ssv2.__getitem__(example, 0)
                taken = utils.retry_load_images.call_args.args[0]
            yield {"length": length, "num_frames": frames, "indices": taken}


def crops(transform):
    import torch

    for height, width, size in ((224, 398, 224), (398, 224, 224), (224, 299, 224), (256, 341, 224), (8, 8, 5)):
        places = torch.arange(height * width).reshape(1, 1, height, width)
        for index in range(3):
            corner = int(transform.uniform_crop(places, size, index)[0][0, 0, 0, 0])
            yield {"image": [height, width], "size": size, "index": index, "corner": list(divmod(corner, width))}


def main():
    decoder, ssv2, transform = authors_modules()
    goldens = {
        "stride": list(strides(decoder)),
        "segments": list(segments(ssv2)),
        "crops": list(crops(transform)),
    }
    lines = [f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in goldens.items()]
    GOLDENS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print({name: len(rows) for name, rows in goldens.items()})


if __name__ == "__main__":
    main()
