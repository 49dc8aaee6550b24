"""Mutants of the data: the pipeline, transforms of images and clips, text, data sets."""

# ruff: noqa: E501

TRANSFORMS = "tests/data/image/test_transforms_gaps.py tests/data/image/test_transforms.py"
PIPELINE = "tests/data/test_data_gaps.py tests/data/loading/test_pipeline.py"
TEXT = "tests/data/test_data_gaps.py tests/data/text/test_token_batches.py"
TREES = "tests/data/text/test_trees.py"

MUTANTS = {
    ("vit_jax/data/image/geometry.py", TRANSFORMS): [
        ('round if self.rounding == "even" else math.floor', "math.floor"),
        ("if rng.random() < self.p else image", "if rng.random() >= self.p else image"),
        ("aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))",
         "aspect = rng.uniform(*self.ratio)"),
        ("math.cos(angle) / scale, math.sin(angle) / scale", "math.cos(angle) * scale, math.sin(angle) * scale"),
        ("size=2) * image.size", "size=2) * image.height"),
        ("round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))",
         "round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))"),
        ("(int(size * image.height / shorter), int(size * image.width / shorter))",
         "(round(size * image.height / shorter), round(size * image.width / shorter))"),
        ("top, left = (math.ceil(rest / 2) for rest in rests)", "top, left = (rest // 2 for rest in rests)"),
        ("image.height > image.width:", "image.height < image.width:"),
        ("1 / rng.uniform(1 / self.high, 1 / self.low) if self.inverse", "rng.uniform(self.low, self.high) if self.inverse"),
        ("rng.integers(-pad, image.height + pad - height, endpoint=True)", "rng.integers(-pad, image.height + pad - height)"),
        ("crop_width = min(width, round(height * self.ratio[1]))", "crop_width = min(width, round(height * self.ratio[0]))"),
        ("aspect = rng.uniform(*self.ratio)\n            high", "aspect = math.exp(rng.uniform(*map(math.log, self.ratio)))\n            high"),
        ("angle = math.radians(rng.uniform(-self.degrees, self.degrees))", "angle = math.radians(rng.uniform(0, self.degrees))"),
    ],
    ("vit_jax/data/image/randaugment.py", TRANSFORMS + " tests/data/image/test_randaugment.py"): [
        ("math.copysign(1.0, rng.random() - 0.5)", "1.0"),
        ("image.width if name.endswith(\"X\") else image.height", "image.height if name.endswith(\"X\") else image.width"),
        ("return max(0.1, 1 + 0.09 * level * _sign(rng))", "return max(0.1, 1 + 0.09 * level)"),
        ('"SolarizeIncreasing": lambda level: 256 - min(256, int(25.6 * level))',
         '"SolarizeIncreasing": lambda level: min(256, int(25.6 * level))'),
        ('"PosterizeIncreasing": lambda level: 4 - int(0.4 * level)', '"PosterizeIncreasing": lambda level: int(0.4 * level)'),
        ("if level < 128 else level", "if level <= 128 else level"),
        ('"Rotate": lambda level: 3.0 * level', '"Rotate": lambda level: 2.0 * level'),
        ("return min(max(level, 0.0), config[\"mmax\"])", "return max(level, 0.0)"),
        ("int(4 * level), rng)", "int(8 * level), rng)"),
        ("max(1, strength)", "strength"),
        ('"ShearX": (1, strength, 0, 0, 1, 0)', '"ShearX": (1, 0, 0, strength, 1, 0)'),
        ("rng.random() < config[\"p\"]", "rng.random() > config[\"p\"]"),
    ],
    ("vit_jax/data/image/randaugment.py", "tests/data/image/test_randaugment.py"): [
        ('"SolarizeAdd": lambda level: int(11 * level)', '"SolarizeAdd": lambda level: min(128, int(11 * level))'),
        ("strength = min(128, strength)", "pass"),
    ],
    ("vit_jax/data/image/values.py", TRANSFORMS): [
        ("if rng.random() >= self.p:", "if rng.random() < self.p:"),
        ("h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))",
         "w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))"),
        ("rng.uniform(max(0.0, 1 - strength), 1 + strength)", "rng.uniform(1, 1 + strength)"),
        ("1 / (255 * std)", "1 / (256 * std)"),
        ("rng.uniform(-self.hue, self.hue)", "rng.uniform(0, 0)"),
    ],
    ("vit_jax/data/image/transforms.py", TRANSFORMS): [
        ("min(255, round(255 * value))", "min(255, round(256 * value))"),
        ('Image.new("RGBA", image.size, "white")', 'Image.new("RGBA", image.size, "black")'),
    ],
    ("vit_jax/data/image/reading.py", "tests/data/image/test_reading.py"): [
        ("levels >> 8", "levels >> 7"),
        ("<< (16 - bits)", "<< 0"),
        ("white - levels if is_inverted else levels", "levels"),
        ("np.rint(values * 255)", "np.floor(values * 255)"),
        ("if not (low >= 0 and high <= 1)", "if low < 0 or high > 1"),
        ("if not stat.S_ISREG(found.st_mode)", "if stat.S_ISDIR(found.st_mode)"),
        ("if image.width * image.height > most", "if image.width * image.height > 2 * most"),
    ],
    ("vit_jax/data/layout.py", "tests/data/test_layout.py"): [
        ("key=int)", "key=str)"),
        ("name.lower() in _SPLIT_OF] or same", "name.lower() in _SPLIT_OF]"),
        ("(?![a-z])", ""),
    ],
    ("vit_jax/data/scan.py", "tests/data/test_layout.py"): [
        ("ordered = sorted(labels)", "ordered = list(labels)"),
    ],
    ("vit_jax/data/loading/pipeline.py", PIPELINE): [
        ("key=[self.seed, position]", "key=[self.seed, position % len(self.source)]"),
        ("np.random.default_rng([seed, epoch])", "np.random.default_rng([seed])"),
        ("[place // self.repeats]", "[place]"),
        ("self.process_index * self.share\n", "0\n"),
        ("batch[\"id\"][kept:] = -1", "pass"),
        ("-(-len(source) // batch_size)", "len(source) // batch_size"),
        ("np.int32 if label.ndim == 1 else np.float32", "np.int32"),
        ("self._rng(position))", "self._rng(positions[0]))"),
    ],
    ("vit_jax/data/loading/levels.py", "tests/data/loading/test_levels.py"): [
        ("* scale - offset\n\n", "* scale + offset\n\n"),
        ("x.reshape(len(x), *between, x.shape[-1])", "x.reshape(*between, len(x), x.shape[-1])"),
    ],
    ("vit_jax/data/loading/assembly.py", f"{PIPELINE} tests/data/loading/test_levels.py"): [
        ("whole[first * rows :]", "whole[first:]"),
        ("part.start - self._parts[0].start, ", "0, "),
    ],
    ("vit_jax/data/loading/workers.py", "tests/data/loading/test_workers.py"): [
        ("process.process.kill()", "process.process.terminate()"),
        ("1 if bound or not told else", "1 if not told else"),
    ],
    ("vit_jax/data/loading/serving.py", "tests/data/loading/test_workers.py tests/data/loading/test_pipeline.py"): [
        ("if sum(lengths) > self.size:", "if not self.size:"),
    ],
    ("vit_jax/data/image/resizing.py", "tests/data/image/test_resizing.py"): [
        ('"bicubic": "catmull_rom"', '"bicubic": "mitchell"'),
        ("image, box = image.reduced(size)", "image, _ = image.reduced(size)"),
        ("CropBox(left, 0, right - left, image.height)", "CropBox(0, 0, right, image.height)"),
        ('check(antialias, "antialias", antialias, "True if exact is False")', "pass"),
    ],
    ("vit_jax/data/image/reduced.py", "tests/data/image/test_reduced.py"): [
        ("/ size[1]) / self._gap", "/ size[1])"),
        ("scale = reduced_width / full_width", "scale = 1 / factor if factor < 8 else 1 / 7"),
        ("and step.antialias", ""),
    ],
    ("vit_jax/data/video/containers.py", "tests/data/video/test_decode.py"): [
        ('packet.pts is None or packet.pts in wanted', 'packet.pts is None'),
        ('else "NONREF"', 'else "DEFAULT"'),
    ],
    ("vit_jax/data/text/batches.py", TEXT): [
        ("_order(len(self), seed, epoch, 0)[place]", "_order(len(self), seed, 0, 0)[place]"),
        ("_order(len(self.ids[bucket]), seed, epoch, 1 + bucket)", "_order(len(self.ids[bucket]), seed, 0, 1 + bucket)"),
        ("_order(len(self.ids[bucket]), seed, epoch, 1 + bucket)", "_order(len(self.ids[bucket]), seed, epoch, 1)"),
        ("for ends in self.ends)) + 1", "for ends in self.ends))"),
        ("np.searchsorted(buckets, pairs.lengths())", "np.searchsorted(buckets, pairs.lengths(), side=\"right\")"),
        ("constant_values=-1)", "constant_values=0)"),
        ("EOS_ID, BOS_ID, EOS_ID", "EOS_ID, EOS_ID, BOS_ID"),
        ("batch_size // length for length", "batch_size // buckets[-1] for length"),
    ],
    ("vit_jax/data/video/sampling.py", "tests/data/video/test_sampling.py"): [
        ("return free / 2 if self.centre else 0", "return 0"),
        ("num_clips if self.fps else num_clips - 1", "num_clips - 1 if self.fps else num_clips"),
        ("(clip + 1) // (num_clips + 1)", "clip // num_clips"),
        ("np.linspace(0, length - 1, num_frames)", "np.linspace(0, length, num_frames)"),
        ("rng.integers(max(free, 0) + 1)", "rng.integers(max(free, 1))"),
    ],
    ("vit_jax/data/video/clips.py", "tests/data/video/test_clips.py"): [
        ("            rng.bit_generator.state = state\n", ""),
        ("for clip in chosen for crop in range(count)]", "for crop in range(count) for clip in chosen]"),
    ],
    ("vit_jax/data/text/trees.py", TREES): [
        ("if bracket.label == EMPTY else", "if bracket.label == EMPTY + EMPTY else"),
        ('re.split("[-=]", bracket.label)[0] or bracket.label', "bracket.label"),
        ("if bracket.words else [])", "if bracket.label else [])"),
        ("if start < position:", "if start <= position:"),
        ("while end() != symbol[1:]:", "if end() != symbol[1:]:"),
        ("roots == 1 and not opened", "not opened"),
    ],
}  # fmt: skip
