"""Mutants of foreign weights: defaults of files, names, layouts."""

DEFAULTS = "tests/pretrained/test_pretrained_defaults.py"

MUTANTS = {
    ("vit_jax/pretrained/formats/vit.py", DEFAULTS): [
        ('config.get("layer_norm_eps", 1e-12)', 'config.get("layer_norm_eps", 1e-6)'),
    ],
    ("vit_jax/pretrained/formats/timm_models.py", DEFAULTS + " tests/pretrained/test_timm.py"): [
        ("EPSILON = 1e-6", "EPSILON = 1e-5"),
        ('default = pretrained_cfg(config).get("global_pool") or "token"', 'default = "token"'),
        ('_implied(_ACTIVATIONS, name, "gelu")', '"gelu"'),
        (', "pool_include_prefix", "dynamic_img_pad"', ', "pool_include_prefix"'),
        ('(config.get("model_args") or {}).get("img_size") or pretrained_cfg', "pretrained_cfg"),
    ],
    ("vit_jax/pretrained/formats/vit_google.py", DEFAULTS): [
        ('"gelu": "tanh",\n        "norm_epsilon": 1e-6', '"gelu": "exact",\n        "norm_epsilon": 1e-6'),
        ('"gelu": "tanh",\n        "norm_epsilon": 1e-6', '"gelu": "tanh",\n        "norm_epsilon": 1e-5'),
        ('squashed("bilinear", 0.5, 0.5, antialias=False)', 'squashed("bilinear", 0.5, 0.5)'),
    ],
    ("vit_jax/pretrained/formats/timesformer.py", DEFAULTS): [
        ('config.get("layer_norm_eps", 1e-6)', 'config.get("layer_norm_eps", 1e-12)'),
        ("MEAN, STD, antialias=False)", "MEAN, STD)"),
        ("MEAN, STD = 0.45, 0.225", "MEAN, STD = 0.5, 0.5"),
        ('"norm_epsilon": 1e-6,\n    }', '"norm_epsilon": 1e-5,\n    }'),
    ],
    ("vit_jax/pretrained/formats/tnt.py", DEFAULTS): [
        ('"norm_epsilon": 1e-5', '"norm_epsilon": 1e-6'),
        ("CROP, MEAN, STD = 0.9, 0.5, 0.5", "CROP, MEAN, STD = 0.875, 0.5, 0.5"),
    ],
    ("vit_jax/pretrained/names.py", DEFAULTS): [
        ('config.get("hidden_act", "gelu")', 'config.get("hidden_act", "gelu_new")'),
    ],
    ("vit_jax/pretrained/preprocessing.py", DEFAULTS + " tests/pretrained/test_preprocessing.py"): [
        ('fields.get("resample", 2)', 'fields.get("resample", 3)'),
        ('fields.get("interpolation", "bicubic")', 'fields.get("interpolation", "bilinear")'),
        ('fields.get("crop_pct") or 0.875', 'fields.get("crop_pct") or 0.9'),
        ("math.floor(min(image_size) / crop_pct)", "round(min(image_size) / crop_pct)"),
        ('fields.get("crop_mode", "center")', 'fields.get("crop_mode", "squash")'),
        ("* 256 / 224", "* 248 / 224"),
    ],
    ("vit_jax/pretrained/fit.py", "tests/pretrained/test_load.py"): [
        ("stored.resample), \"resized\"", "\"bicubic\"), \"resized\""),
        ("np.asarray(value).astype(leaf.dtype)", "np.asarray(value)"),
    ],
}  # fmt: skip
