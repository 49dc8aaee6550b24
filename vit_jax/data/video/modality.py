"""Clips as a modality: the preprocessing of a config, and the user's video files and folders of frames."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.config import Config
from vit_jax.data.examples import LabelledModality
from vit_jax.data.unread import BlankVideo
from vit_jax.data.video.clips import ClipPreprocessing
from vit_jax.data.video.decode import Video, is_image
from vit_jax.data.video.lists import ClipEntry
from vit_jax.data.video.source import open_clip, walk_clips
from vit_jax.errors import UserError

FRAMES_SHOWN = 4


class VideoModality(LabelledModality):
    """Clips of several frames."""

    key, input_name, inputs, unit, shown = "video", "video", "clips", "clips", 16
    input_type = "a video, such as vit_jax.data.video.decode.VideoFile(path)"

    def is_input(self, stored: Any) -> bool:
        return hasattr(stored, "index_at")

    def make_encoder(self, config: Config, *, train: bool) -> ClipPreprocessing:
        data = config.data
        views = {} if train else {"clips": data.eval_clips, "crops": data.eval_crops}
        return ClipPreprocessing(
            num_frames=data.num_frames,
            image_size=tuple(data.image_size),
            channels=data.channels,
            sampling=data.sampling,
            transforms=data.train_transforms if train else data.eval_transforms,
            **views,
        )

    def load_encoder(self, fields: dict[str, Any]) -> ClipPreprocessing:
        return ClipPreprocessing.from_dict(fields)

    def files(self, path: pathlib.Path) -> Iterator[pathlib.Path]:
        """Yields the videos and folders of frames below `path`, or `path` itself if it is a folder of frames."""
        found = sorted(map(pathlib.Path, walk_clips(path)))
        yield from found or ([path] if any(is_image(name) for name in os.listdir(path)) else [])

    def open_file(self, path: pathlib.Path, config: Config) -> Video:
        try:
            video = open_clip(path, ClipEntry(str(path), 0), config.data.frames_fps)
            self.thumbnail(video)  # fails for a truncated file; other damage shows when the damaged frames are read
        except UserError:
            raise
        except Exception as error:  # one file must not end the prediction of the others
            raise UserError(str(error) or type(error).__name__) from None
        return video

    def blank(self) -> BlankVideo:
        return BlankVideo()

    def thumbnail(self, stored: Video) -> Image.Image:
        """Returns up to `FRAMES_SHOWN` frames, spread evenly over the video, side by side."""
        from vit_jax.plots import film_strip

        shown = np.linspace(0, stored.num_frames - 1, min(FRAMES_SHOWN, stored.num_frames))
        return film_strip(stored.read(shown.round().astype(int).tolist()))


MODALITY = VideoModality()
