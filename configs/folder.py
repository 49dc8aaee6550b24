"""Train on a folder of images (`--config.data.path=DIR`), from scratch or from `--config.init_from=WORKDIR`.

`configs/folder.py:S/16,64` names the variant and the image size; B/16,224 if left out. The recipe is AugReg's light1
with drop path, at the fine-tuning rate of the ViT paper's Table 4 where the start is a trained model.
"""

from vit_jax.config import Config, default_config


def get_config(arg: str = "") -> Config:
    variant, _, size = (arg or "B/16,224").partition(",")
    config = default_config()
    config.batch_size = 64
    config.duration = "30 epochs"
    config.checkpoint.every = "1 epoch"

    config.model.name = f"vit:{variant}"
    config.model.drop_path_rate = 0.1

    config.data.name = "folder"
    config.data.train_split = "train"
    config.data.eval_split = "val"
    config.data.image_size = (int(size or 224),) * 2
    config.data.channels = 3
    config.data.train_transforms = "random_resized_crop|flip|randaug(2, 0)|normalize(mean=0.5, std=0.5)"
    config.data.eval_transforms = f"resize({int(size or 224) * 8 // 7})|center_crop|normalize(mean=0.5, std=0.5)"

    config.optimizer.schedule.peak = 3e-4
    config.optimizer.schedule.warmup = "2 epochs"
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0
    return config
