"""The commands on a folder of clips: check, train, evaluate in several views, and predict."""

import contextlib
import dataclasses
import functools
import io
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot  # noqa: F401  here, before HOME is another and its fonts would be searched for again
from PIL import Image

from vit_jax.__main__ import main
from vit_jax.data.modality import get_modality
from vit_jax.data.video.decode import FrameFolder, VideoFile
from vit_jax.errors import UserError
from vit_jax.experiment import make_task
from vit_jax.load import load_run
from vit_jax.run import Run

sys.path.insert(0, "tests/data")
from tiny_clips import write_clip, write_sound

pytestmark = pytest.mark.usefixtures("own_home")
LABELS = ("still", "wave")


def probabilities(answer):
    """Returns the probabilities of an answer, or of one of its frames, in the order of the labels."""
    by_label = {guess["label"]: guess["probability"] for guess in answer["predictions"]}
    return [by_label[label] for label in LABELS]


def predict(run_, videos, **options):
    return np.array([probabilities(answer) for answer in run_.predict(videos, **options)])


EVAL_SIZE, SKIPPED = 6, 3  # of the split val
FLAGS = {
    "batch_size": 4,
    "duration": "4 steps",
    "eval_every": "2 steps",
    "log_every": "2 steps",
    "data.name": "video",
    "data.label": "",
    "data.eval_split": "val",
    "data.channels": 3,
    "data.image_size": (16, 16),
    "data.num_frames": 4,
    "data.sampling": "stride(frames=2)",
    "data.train_transforms": "random_resize(16, 20)|random_crop|normalize(mean=0.5, std=0.5)",
    "data.eval_transforms": "resize(16)|center_crop|normalize(mean=0.5, std=0.5)",
    "data.eval_clips": 2,
    "data.eval_crops": 3,
}


def run(*arguments, status=0):
    """Runs a command in this process; returns what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([str(argument) for argument in arguments]) == status
    return out.getvalue()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips of several containers, lengths and rates, and in `val` three that cannot be used."""
    root = tmp_path_factory.mktemp("clips")
    for split, count in (("train", 3), ("val", 2)):
        for label in LABELS:
            for index in range(count):
                write_clip(root / split / label / f"{index}.mp4", 12 + index, fps=10 + 5 * index)
    write_clip(root / "val" / "wave" / "short.avi", 2)
    write_clip(root / "val" / "still" / "variable.mp4", times=[0, 50, 300, 320, 700, 900, 1000, 1500, 1600, 1700])
    whole = write_clip(root / "val" / "still" / "cut.mp4", 12)
    whole.write_bytes(whole.read_bytes()[:-300])
    (root / "val" / "still" / "empty.mp4").write_bytes(b"")
    write_sound(root / "val" / "wave" / "sound.mp4")
    return root


@pytest.fixture(scope="module")
def checked(clips):
    return clips, json.loads(run("data", "check", clips, "--workers=0", "--json", status=1))


@pytest.fixture(scope="module")
def trained(checked, own_home):
    clips, _ = checked
    workdir = clips.parent / "run"
    return workdir, train(workdir, clips)


def train(workdir, clips, **flags):
    flags = FLAGS | {"data.path": clips, "compilation_cache": ""} | flags
    overrides = [f"--config.{name}={value}" for name, value in flags.items()]
    return run("train", "--config=configs/timesformer.py:runlocal", f"--workdir={workdir}", *overrides)


def test_each_kind_of_clip_is_told_apart(checked):
    clips, found = checked
    counts = {status: count for status, count in found["counts"].items() if count}
    assert counts == {"ok": 10, "few-frames": 1, "variable-rate": 1, "truncated": 1, "empty": 1, "audio-only": 1}
    assert sum(counts.values()) == len(list(clips.glob("*/*/*")))


def test_training_says_how_many_clips_were_scored_and_how_many_not(trained):
    workdir, printed = trained
    assert f"video: 6 training and {EVAL_SIZE} evaluation clips, 2 classes" in printed
    assert f"({EVAL_SIZE} examples in 6 views, {SKIPPED} skipped)" in printed
    assert "input_wait" in printed
    for picture in ("curves.png", "predictions.png"):
        with Image.open(workdir / picture) as image:
            image.load()


def test_attention_in_time_starts_from_an_image_model_trained_on_frames(checked, tmp_path):
    clips, _ = checked
    quick = {"data.eval_clips": 1, "data.eval_crops": 1, "duration": "3 steps", "eval_every": "3 steps"}
    frame = {"model.attention_type": "space_only", "data.num_frames": 1, "data.sampling": "stride(frames=1)"}
    train(tmp_path / "frames", clips, **quick, **frame)
    still = {"optimizer.schedule.peak": 0.0}
    printed = train(tmp_path / "clips", clips, init_from=tmp_path / "frames", **quick, **still)
    assert "attentions before the last are copies of its own" in printed
    image, video = (load_run(tmp_path / name).params for name in ("frames", "clips"))
    block = video["encoder"]["block_0"]
    assert np.any(image["head"]["kernel"])
    for mine, its in (
        (video["head"], image["head"]),
        (block["attention"], image["encoder"]["block_0"]["attention"]),
        (block["temporal_attention"], image["encoder"]["block_0"]["attention"]),
    ):
        jax.tree.map(np.testing.assert_array_equal, mine, its)
    assert not np.any(video["time_embed"])


def test_single_view_and_multi_view_are_both_reported(trained):
    lines = run("evaluate", trained[0], "--clips=2", "--crops=3", "--json").splitlines()
    single, several = map(json.loads, lines)
    assert "views" not in single
    assert several["views"] == 6
    for result in (single, several):
        assert (result["examples"], result["skipped"]) == (EVAL_SIZE, SKIPPED)
    last = json.loads((trained[0] / "metrics.jsonl").read_text().splitlines()[-1])
    assert several["loss"] == pytest.approx(last["loss"], rel=1e-6)
    assert several["loss"] != single["loss"]


@pytest.mark.parametrize("batch_size", [1, 12, 64])
def test_the_batch_never_changes_a_score(trained, batch_size):
    result, reference = (
        json.loads(run("evaluate", trained[0], "--json", *more)) for more in ((f"--batch_size={batch_size}",), ())
    )
    assert result["examples"] == EVAL_SIZE
    assert result["loss"] == pytest.approx(reference["loss"], abs=1e-6)


def test_probabilities_are_the_mean_over_the_views(trained, clips):
    run_ = load_run(trained[0])
    video = VideoFile(clips / "val" / "wave" / "0.mp4")
    views = jnp.stack(run_.encoder.rows(video, None))
    logits = run_.model.apply({"params": run_.params}, views, train=False)
    expected = np.asarray(jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(predict(run_, [video])[0], expected.mean(0), atol=1e-6)


def test_logits_are_averaged_over_the_views_where_the_config_says_so(trained, clips):
    config = load_run(trained[0]).config.copy_and_resolve_references()
    config.task.average_views = "logits"
    run_ = load_run(trained[0])
    run_ = dataclasses.replace(run_, task=make_task(config, run_.encoder, run_.labels))
    files = [clips / "val" / label / f"{index}.mp4" for label in LABELS for index in (0, 1)]
    expected = []
    for file in files:
        views = jnp.stack(run_.encoder.rows(VideoFile(file), None))
        expected.append(jax.nn.softmax(run_.model.apply({"params": run_.params}, views, train=False).mean(0)))
    np.testing.assert_allclose(predict(run_, map(VideoFile, files)), expected, atol=1e-6)
    of_all = predict(run_, [example["video"] for example in run_.open_split().__getitems__(range(EVAL_SIZE))])
    labels = run_.open_split().all_labels()
    score = run_.evaluate()
    assert score["loss"] == pytest.approx(-np.log(of_all[np.arange(EVAL_SIZE), labels]).mean(), rel=1e-4)
    assert score["loss"] != pytest.approx(load_run(trained[0]).evaluate()["loss"], rel=1e-7)


def test_frames_are_of_one_clip_and_averaged_over_its_crops_alone(trained, clips):
    run_ = load_run(trained[0])
    video = VideoFile(clips / "train" / "wave" / "2.mp4")
    single = dataclasses.replace(run_.encoder, clips=1)
    views = jnp.stack(single.rows(video, None))
    apply = jax.jit(functools.partial(run_.model.apply, train=False, capture=("frame_logits",)))
    logits = apply({"params": run_.params}, views)[1]["frame_logits"]
    assert logits.shape == (FLAGS["data.eval_crops"], FLAGS["data.num_frames"], len(LABELS))
    (answer,) = run_.with_views(clips=1).predict([video], per_frame=True)
    tops = jax.nn.softmax(logits).mean(0)
    assert [frame["label"] for frame in answer["frames"]] == [LABELS[i] for i in tops.argmax(-1)]
    np.testing.assert_allclose([frame["probability"] for frame in answer["frames"]], tops.max(-1), atol=1e-6)
    first, *_ = run_.encoder.rows(video, None)
    assert not np.array_equal(first, views[0])  # two clips are of other times than the one


def test_the_pictures_of_a_run_take_no_more_memory_than_its_evaluation(trained, tmp_path, monkeypatch):
    run_, asked = load_run(trained[0]), []
    for batch_size, share in ((0, FLAGS["batch_size"]), (2, 2)):
        run_.config.eval_batch_size = batch_size
        given = Run.predict
        with monkeypatch.context() as patch:
            patch.setattr(Run, "predict", lambda *a, given=given, **k: asked.append(k["batch_size"]) or given(*a, **k))
            run_.modality.preview(run_, tmp_path)
        assert asked.pop() == share


def test_views_of_a_video_stay_together_however_small_the_batch(trained, clips):
    run_, shapes = load_run(trained[0]), []
    videos = [VideoFile(clips / "val" / "wave" / f"{index}.mp4") for index in (0, 1)]
    apply = type(run_.model).apply
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(run_.model), "apply", lambda *a, **k: shapes.append(a[2].shape) or apply(*a, **k))
        found = predict(run_, videos, batch_size=1)
    assert [shape[0] for shape in shapes] == [6]
    np.testing.assert_allclose(found, predict(run_, videos), atol=1e-6)


@pytest.fixture
def frames(trained, clips, tmp_path):
    """Folders of the 12 frames of a clip, two of them with a frame that cannot be read, which shows only when used."""
    video = VideoFile(clips / "train" / "wave" / "0.mp4")
    for name, bad in (("good", None), ("bad", 2), ("late", 8)):
        folder = tmp_path / "frames" / "wave" / name
        folder.mkdir(parents=True)
        for index, frame in enumerate(video.read(range(12))):
            frame.save(folder / f"{index}.png")
        if bad is not None:
            (folder / f"{bad}.png").write_bytes((folder / f"{bad}.png").read_bytes()[:60])
    return tmp_path / "frames"


def test_folders_of_frames_are_clips(trained, clips, frames):
    good = frames / "wave" / "good"
    slow = load_run(trained[0]).config.copy_and_resolve_references()
    slow.data.frames_fps = 7.0
    assert get_modality("video").open_file(good, slow).fps == 7
    (printed,) = run("predict", trained[0], good).splitlines()
    assert printed.startswith(f"{good}\t")
    video = VideoFile(clips / "train" / "wave" / "0.mp4")
    run_ = load_run(trained[0])
    np.testing.assert_allclose(predict(run_, [FrameFolder(good)]), predict(run_, [video]), atol=1e-6)
    named = get_modality("video").read_inputs([str(frames), str(good)], [], run_.config)
    assert [name for name, _ in named] == [str(frames / "wave" / name) for name in ("bad", "good", "late", "good")]


@pytest.mark.parametrize(("options", "skipped"), [((), {"bad": 2}), (("--per_frame",), {"bad": 2, "late": 8})])
def test_damage_within_a_clip_ends_that_clip_alone(trained, frames, capsys, options, skipped):
    sheet = frames / "sheet.png"
    assert main(["predict", str(trained[0]), str(frames), "--json", f"--contact_sheet={sheet}", *options]) == 1
    out, err = capsys.readouterr()
    names = [json.loads(line)["video"].rpartition("/")[2] for line in out.splitlines()]
    assert names == [name for name in ("good", "late") if name not in skipped]
    *reasons, wrote = err.splitlines()
    assert wrote == f"vit_jax: wrote {sheet}"
    for line, (name, frame) in zip(reasons, skipped.items(), strict=True):
        assert line.startswith(f"vit_jax: skipped {frames}/wave/{name}: frame {frame}.png cannot be read")


def test_a_broken_video_raises_where_nobody_asks_for_the_rest(trained, frames):
    with pytest.raises(UserError, match=r"bad: frame 2\.png cannot be read"):
        predict(load_run(trained[0]), [FrameFolder(frames / "wave" / name) for name in ("good", "bad")])


def test_clips_are_predicted_one_by_one_and_frame_by_frame(trained, clips, tmp_path):
    folder = clips / "val" / "still"
    sheet = tmp_path / "sheet.png"
    printed = run("predict", trained[0], folder, "--json", "--per_frame", f"--contact_sheet={sheet}", status=1)
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["video"] for row in rows] == [str(folder / name) for name in ("0.mp4", "1.mp4", "variable.mp4")]
    for row in rows:
        assert {guess["label"] for guess in row["predictions"]} == set(LABELS)
        assert sum(guess["probability"] for guess in row["predictions"]) == pytest.approx(1, abs=1e-5)
        assert len(row["frames"]) == FLAGS["data.num_frames"]
    with Image.open(sheet) as image:
        assert min(image.size) > 100


def test_what_is_not_for_clips_is_refused_by_name(trained, capsys):
    assert main(["predict", str(trained[0]), "--text", "hello"]) == 2
    assert "--text does not apply to a checkpoint that takes clips" in capsys.readouterr().err
    assert main(["predict", str(trained[0])]) == 2
    assert "no inputs were given. Name clips" in capsys.readouterr().err
