"""Noisy Student (arXiv:1911.04252) with a ViT: a teacher and its students.

  python -m vit_jax train --config=configs/noisy_student.py:teacher,S/16 --workdir=runs/teacher \\
      --config.data.path=LABELLED
  python -m vit_jax predict runs/teacher UNLABELLED/train --output=teacher.npz
  python -m vit_jax train --config=configs/noisy_student.py:student,B/16 --workdir=runs/student \\
      --config.data.path=LABELLED --config.pseudo_labels.path=UNLABELLED --config.pseudo_labels.predictions=teacher.npz
  python -m vit_jax train --config=configs/noisy_student.py:teacher,runlocal --workdir=runs/try

The argument is `teacher` or `student`, MODEL (`Ti/16`, `S/16`, `B/16` or `L/16`) and `runlocal`. LABELLED has
`train/CLASS/*.jpg` and `val/CLASS/*.jpg`; UNLABELLED has `train/any/*.jpg`. To iterate, let the student predict
UNLABELLED for the next student.

The paper has no ViT, so there is no expected accuracy. Its EfficientNet-L2 reaches a top-1 accuracy of 88.4 % on
ImageNet (Table 2). In its ablation of noise, with B5 and 1.3 M unlabelled images, the model without a teacher reaches
83.3 %, the student 83.9 %, a student without augmentation 83.6 %, and one without any noise 83.2 %.
`python -m vit_jax reproduce noisy_student/noise --scale=small` trains this ablation on digits.

These parts of the method are left out: batches with a fixed ratio of unlabelled to labelled images, and dropout of 0.5
before the head only.

`runlocal` trains a tiny model of the same recipe on digits for about a minute: a teacher on a tenth of the labels, a
student also on `config.pseudo_labels.predictions` of the rest. Not run at full size.
"""

from vit_jax.config import Config, default_config
from vit_jax.config.recipes import NORMALIZE, choose, read_images, shrink

FILE = "configs/noisy_student.py"
ARGUMENTS = (
    "teacher,Ti/16",
    "teacher,S/16",
    "teacher,B/16",
    "teacher,L/16",
    "student,B/16",
)  # that `python -m vit_jax configs` lists
MODELS = ("Ti/16", "S/16", "B/16", "L/16")


def get_config(arg: str = "teacher") -> Config:
    chosen = choose(FILE, arg, stage=("teacher", "student"), model=MODELS, runlocal=("runlocal",))
    is_student = chosen["stage"] == "student"
    config = training(chosen["model"] or "B/16", 32 if chosen["runlocal"] else 224, is_student=is_student)
    if chosen["runlocal"]:
        shrink(config)
        config.data.train_split = "train[:10%]"
        if is_student:
            config.pseudo_labels.split, config.pseudo_labels.per_class = "train[10%:]", None
    return config


def training(model: str, size: int = 224, *, is_student: bool) -> Config:
    """Training of teacher or student.

    The noise is that of the authors' code (google-research/noisystudent): RandAugment of two operations with magnitude
    27, and stochastic depth whose last layer survives with a probability of 0.8. Both also have its label smoothing and
    moving average. The teacher has the augmentation of a plain ViT instead and no stochastic depth. Epochs and dtype
    are those of the authors' main.py. The student's pseudo-labels are soft, of images of a confidence of at least 0.3,
    130,000 of each class (section 3.1). Optimizer, schedule and weight decay are those of configs/plain_vit.py, because
    the paper's suit an EfficientNet.
    """
    config = default_config()
    config.batch_size = 1024
    config.duration = "350 epochs"
    config.eval_every = config.checkpoint.every = "2_500 steps"

    config.model.name = f"vit:{model}"
    config.model.dtype = "bfloat16"
    config.model.drop_path_rate = 0.2 if is_student else 0.0
    randaug = "randaug_noisy_student" if is_student else "randaug(2, 10)"
    read_images(
        config,
        "folder",
        ("train", "val"),
        size,
        train=f"inception_crop|flip|{randaug}|{NORMALIZE}",
        evaluation=f"resize({size * 8 // 7})|center_crop|{NORMALIZE}",
    )
    config.task.label_smoothing = 0.1
    if is_student:
        config.pseudo_labels.split = "train"
        config.pseudo_labels.threshold = 0.3
        config.pseudo_labels.per_class = 130_000

    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0
    config.optimizer.ema_decay = 0.9999
    config.optimizer.schedule.peak = 1e-3
    config.optimizer.schedule.warmup = "10_000 steps"
    return config
