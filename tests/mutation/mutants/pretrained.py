"""Mutants of foreign weights: defaults of files, names, layouts."""

DEFAULTS = "tests/pretrained/test_pretrained_defaults.py"

MUTANTS = {
    ("vit_jax/pretrained/formats/vit_huggingface.py", DEFAULTS): [
        ('"vit": 1e-12', '"vit": 1e-6'),
    ],
    ("vit_jax/pretrained/formats/timm_models.py", DEFAULTS + " tests/pretrained/test_timm.py"): [
        ("EPSILON = 1e-6", "EPSILON = 1e-5"),
        ('default = pretrained_cfg(config).get("global_pool") or "token"', 'default = "token"'),
        ('_implied(_ACTIVATIONS, name, "gelu")', '"gelu"'),
        (', "pool_include_prefix", "dynamic_img_pad"', ', "pool_include_prefix"'),
        ('_section(config, "model_args").get("img_size") or pretrained_cfg', "pretrained_cfg"),
    ],
    ("vit_jax/pretrained/formats/vit_google.py", DEFAULTS): [
        ('"gelu": "tanh",\n        "norm_epsilon": 1e-6', '"gelu": "exact",\n        "norm_epsilon": 1e-6'),
        ('"gelu": "tanh",\n        "norm_epsilon": 1e-6', '"gelu": "tanh",\n        "norm_epsilon": 1e-5'),
        ('squashed("bilinear", 0.5, 0.5, antialias=False)', 'squashed("bilinear", 0.5, 0.5)'),
    ],
    ("vit_jax/pretrained/formats/timesformer.py", DEFAULTS): [
        ("common_fields(config, norm_epsilon=1e-6", "common_fields(config, norm_epsilon=1e-12"),
        ("MEAN, STD, antialias=False)", "MEAN, STD)"),
        ("MEAN, STD = 0.45, 0.225", "MEAN, STD = 0.5, 0.5"),
        ('"norm_epsilon": 1e-6,\n    }', '"norm_epsilon": 1e-5,\n    }'),
    ],
    ("vit_jax/pretrained/formats/tnt.py", DEFAULTS): [
        ('"norm_epsilon": 1e-5', '"norm_epsilon": 1e-6'),
        ("CROP, MEAN, STD = 0.9, 0.5, 0.5", "CROP, MEAN, STD = 0.875, 0.5, 0.5"),
    ],
    ("vit_jax/pretrained/hugging_face.py", DEFAULTS): [
        ('config.get("hidden_act", "gelu")', 'config.get("hidden_act", "gelu_new")'),
    ],
    ("vit_jax/pretrained/preprocessing.py", DEFAULTS + " tests/pretrained/test_preprocessing.py"): [
        ('fields.get("interpolation") or "bicubic"', 'fields.get("interpolation") or "bilinear"'),
        ('fields.get("crop_pct") or 0.875', 'fields.get("crop_pct") or 0.9'),
        ("math.floor(image_size[0] / crop_pct)", "round(image_size[0] / crop_pct)"),
        ('fields.get("crop_mode") or "center"', 'fields.get("crop_mode") or "squash"'),
        ("* 256 / 224", "* 248 / 224"),
    ],
    ("vit_jax/pretrained/image_processors.py", "tests/pretrained/test_preprocessing.py"): [
        ('"ViT": {"resample": 2}', '"ViT": {"resample": 3}'),
        ('"size": {"height": 256, "width": 256}', '"size": {"height": 224, "width": 224}'),
        ("(x + offset) / ratio", "x / ratio"),
    ],
    ("vit_jax/pretrained/fit.py", "tests/pretrained/test_load.py"): [
        ("stored.resample), \"resized\"", "\"bicubic\"), \"resized\""),
        ("np.asarray(value).astype(leaf.dtype)", "np.asarray(value)"),
    ],
}  # fmt: skip
