"""Lists of clips in the dialects of published data sets: what is read, what is refused, and lists damaged at random."""

import math
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vit_jax.data.video.dialects import MOST_CLASSES, read_lines
from vit_jax.data.video.lists import list_file, list_splits, read_entries
from vit_jax.data.video.source import VideoSource, list_clips
from vit_jax.errors import UserError


@pytest.fixture
def write(tmp_path):
    def make(content, name="train.csv"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return make


def read(folder, split="train"):
    entries = read_entries(folder, split)
    return [(clip.file, entries.labels[clip.label]) for clip in entries.clips]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("a b.mp4 1\nc.mp4 0\n", [("a b.mp4", "1"), ("c.mp4", "0")]),
        ("1/a.mp4,up\n2/b.mp4,down\n", [("1/a.mp4", "up"), ("2/b.mp4", "down")]),
        ('"a, b.mp4","to the left, fast"\nc.mp4,up\n', [("a, b.mp4", "to the left, fast"), ("c.mp4", "up")]),
        (b"\xef\xbb\xbfpath,label\r\n\r\na.mp4,up\r\n", [("a.mp4", "up")]),
        (b"a.mp4,up\rb.mp4,down", [("a.mp4", "up"), ("b.mp4", "down")]),
        # Something-Something V1
        (
            "100;Holding something\n101;Moving a, b and c\n",
            [("100", "Holding something"), ("101", "Moving a, b and c")],
        ),
        # Jester
        ("34870;Drumming Fingers\n56557;Sliding Two Fingers Right\n", [("34870", "Drumming Fingers"), None]),
        # Kinetics, as published
        ("label,youtube_id,time_start,time_end,split\nhop,-x_1,5,15,train\n", [("-x_1_000005_000015.mp4", "hop")]),
        # Kinetics, as TimeSformer's code writes it
        ("videos/a.mp4 0\nvideos/b.mp4 1\n", [("videos/a.mp4", "0"), ("videos/b.mp4", "1")]),
        ("file_name\tclass\ncafé.mp4\tjumping jack\n", [("café.mp4", "jumping jack")]),
    ],
)
def test_dialects_that_are_read(write, content, found):
    entries = read(write(content))
    assert [one for one, known in zip(entries, found, strict=True) if known] == [known for known in found if known]


UCF101 = "".join(f"Archery/v_Archery_g0{number}_c01.avi {number}\n" for number in range(1, 6))
HMDB51 = "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \nBrush_my_Hair_brush_hair_f_cm_np1_le_med_3.avi 2 \n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (UCF101, "labels are numbers from 1 to 5, and it is doubtful whether they count from 0 or 1. Write labels.txt"),
        (HMDB51, "looks like a list of HMDB51, whose numbers are not classes: 1 is for training, 2 for testing"),
        ("video_id,label\na,1\nb,0\n", "line 1: no column is called path or file or filename"),
        ("name\taction\na.mp4\tup\n", "line 1: no column is called path or file"),
        ("filename,category\na.mp4,up\n", "line 1: no column is called label or class; found filename, category"),
        ("clips,kinds\na.mp4,1\nb.mp4,0\n", "line 1: 'clips,kinds' looks like a header, because all other labels are"),
        ("path,label,class\na.mp4,1,up\n", "line 1: several columns are called label or class; keep one"),
        ("path,label\n", "has a header, but no clips"),
        ("youtube_id,label\nabc,up\n", "line 1: youtube_id needs the columns time_start and time_end"),
        ("youtube_id,label,start,end\nabc,up,3,\n", "line 2: a youtube_id, its start and its end must be given"),
        ("0,a.mp4\n1,b.mp4\n", "line 1: 'a.mp4' is in the place of the label, but is the name of a video"),
        ("v/a 163 4\nv/b 20 0\n", "line 1: v/a 163 4 has three columns; a path, a number of frames and a label"),
        ("Archery/v_1.avi\nArchery/v_2.avi\n", "line 1: 'Archery/v_1.avi' is not a path and a label separated by"),
        ("path,label\na.mp4,\n", "line 2 has no label"),
        ("path,label\n,up\n", "line 2: the path '' is empty or has a control character"),
        ("a\0b.mp4,up\n", r"line 1: the path 'a\x00b.mp4' is empty or has a control character"),
        ("a.mp4 0\nb.mp4 99999999999\n", "line 2: label 99999999999 is above 99999, the largest class number"),
        (f"a.mp4 {'9' * 5000}\n", f"line 1: label {'9' * 20} is above"),
        ("a.mp4,0,0,1e300\n", "line 1: end must be at most 1,000,000 seconds, not 1e300"),
        ("b.mp4,0\na.mp4,0,99999999999,1e12\n", "line 2: start must be at most 1,000,000 seconds, not 99999999999"),
        ("a.mp4,0,1e999,2\n", "line 1: start must be a number of seconds, 0 or more, not '1e999'"),
        ("a.mp4,0,nan,2\n", "line 1: start must be a number of seconds, 0 or more, not 'nan'"),
        ("youtube_id,label,start,end\nabc,up,0,1e15\n", "line 2: end must be at most 1,000,000 seconds"),
        (b"\xff\xfea\0.\0m\0p\x004\0,\x000\0", "line 1: not valid UTF-8 at byte 1; save the list as UTF-8"),
        (f'a.mp4,"{"x" * 200_000}"\n', "line 1: not a line of CSV (field larger than field limit"),
    ],
)
def test_what_is_doubtful_is_refused(write, content, message):
    folder = write(content)
    with pytest.raises(UserError) as caught:
        list_clips(folder, "train")
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(folder / "train.csv"))
    assert "\n" not in str(caught.value)


def test_a_first_line_that_is_a_clip_is_no_header(write):
    folder = write("frames 12 3\nx 0\n")
    with pytest.raises(UserError, match="has three columns"):
        read(folder)
    (folder / "frames 12").mkdir()
    assert read(folder) == [("frames 12", "3"), ("x", "0")]
    assert read(write("action\tup\nb.mp4\tdown\n")) == [("action", "up"), ("b.mp4", "down")]


def test_numbers_from_1_need_names(write):
    folder = write(UCF101)
    write("a\nb\nc\nd\ne\n", "labels.txt")
    assert [label for _, label in read(folder)] == ["a", "b", "c", "d", "e"]
    write("x.avi 2\n", "test.txt")
    assert read(folder, "test") == [("x.avi", "b")]
    write("0\na\nb\nc\nd\ne\n", "labels.txt")
    assert [label for _, label in read(folder)] == ["a", "b", "c", "d", "e"]
    assert read_entries(folder, "train").labels[0] == "0"


def test_names_of_ucf101(write):
    folder = write(UCF101)
    write("1 ApplyEyeMakeup\n2 Archery\n3 Basketball Dunk\n4 d\n5 e\n", "classInd.txt")
    assert [label for _, label in read(folder)][:3] == ["ApplyEyeMakeup", "Archery", "Basketball Dunk"]
    assert read_entries(folder, "train").recognised == (
        "train.csv was read as path, label and optionally start and end, separated by spaces, without a header; labels "
        "are numbers from 1, the classes those of classInd.txt"
    )
    for wrong in ("1 a\n3 b\n", "a\nb\n", "x y\n"):
        write(wrong, "classInd.txt")
        with pytest.raises(UserError, match=r"classInd\.txt must contain lines of a number from 1 and a name"):
            read(folder)


@pytest.mark.parametrize(
    "content", ["[", "3", '{"a": 0, "b": 2}', '{"a": 1e999}', '{"a": "x"}', "[" * 100_000, '{"a": 7}', b"\xff"]
)
def test_names_that_cannot_be_read(write, content):
    folder = write("a.mp4 0\n")
    write(content, "labels.json")
    with pytest.raises(UserError, match=r"labels\.json must contain a list of names, or {\"name\": number}"):
        read(folder)


def test_names_by_number_may_begin_at_1(write):
    folder = write("a.mp4 1\nb.mp4 2\n")
    write(b'\xef\xbb\xbf{"up": 1, "down": 2}', "labels.json")
    assert read(folder) == [("a.mp4", "up"), ("b.mp4", "down")]
    write("", "labels.json")
    with pytest.raises(UserError, match="must contain"):
        read(folder)
    write("\n", "labels.txt")
    with pytest.raises(UserError, match=r"labels\.txt is empty"):
        read(folder)


def test_lists_have_the_usual_names_of_splits_in_any_case(write):
    folder = write("a.mp4 0\n", "Training.txt")
    write("b.mp4 0\n", "dev.csv")
    write("c.mp4 0\n", "trainlist01.txt")
    assert list_splits(folder) == ["Training", "dev"]
    assert (list_file(folder, "train"), list_file(folder, "val")) == (folder / "Training.txt", folder / "dev.csv")
    assert list_file(folder, "test") is None
    write("d.mp4 0\n", "trainlist01.csv")
    assert read(write("x.mp4 0\n", "mine.csv"), "mine") == [("x.mp4", "0")]


def test_what_was_recognised_is_said(write):
    from vit_jax.data.describe import report

    folder = write("path,label\na.mp4,up\ngone.mp4,up\n")
    (folder / "a.mp4").write_text("x")
    told = "train.csv was read as path, label, separated by commas, with a header; labels are names"
    with pytest.raises(UserError, match=f"missing: gone.mp4. Run .* skipped. {told}"):
        VideoSource(folder, "train")
    write("path,label\na.mp4,up\n")
    info, lines = report("video", path=str(folder))
    assert info["splits"]["train"]["recognised"].startswith(told)
    assert info["splits"]["train"]["images"] == {"unreadable": 1}
    assert any(line.startswith(told) for line in lines)


LINES = st.text(st.sampled_from("ab/.;, \t\"'0123456789-e\r\n\0é") | st.characters(codec="utf-8"), max_size=60)
WORDS = st.sampled_from(["path", "label", "start", "end", "youtube_id", "a.mp4", "1", "0", "1e9", "-1", "nan", "", '"'])
TABLES = st.lists(
    st.lists(WORDS | st.text(st.characters(codec="utf-8"), max_size=5), max_size=6).map(",".join), max_size=6
).map("\n".join)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("lists")


@settings(derandomize=True, deadline=None, database=None, max_examples=150)
@given(st.binary(max_size=80) | LINES.map(str.encode) | TABLES.map(str.encode))
@example(b"a.mp4 " + b"9" * 12)
@example(b"\xef\xbb\xbf")
def test_any_list_is_read_or_refused_in_one_line(shared, content):
    check_any(shared, content)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, database=None, max_examples=5_000)
@given(st.binary(max_size=80) | LINES.map(str.encode) | TABLES.map(str.encode))
def test_any_list_is_read_or_refused_in_one_line_at_length(shared, content):
    check_any(shared, content)


def attempt(function, *arguments):
    """Returns the result and no message, or None and the message of the `UserError`."""
    try:
        return function(*arguments), ""
    except UserError as error:
        return None, str(error)


def check_any(folder, content):
    file = folder / "train.csv"
    file.write_bytes(content)
    entries, refusal = attempt(read_entries, folder, "train")
    assert "\n" not in refusal
    if entries is None:
        assert re.match(rf"{re.escape(str(file))}( line \d+)?[ :]", refusal)
        return
    assert 0 < len(entries.labels) <= MOST_CLASSES
    assert len(read_lines(file)[0]) == len(entries.clips)
    for clip in entries.clips:
        assert clip.file
        assert 0 <= clip.label < len(entries.labels)
        assert 0 <= clip.start < clip.end
        assert clip.end <= 1e6 or clip.end == math.inf
    assert "\n" not in attempt(VideoSource, folder, "train")[1]
