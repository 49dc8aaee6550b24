"""Slices of splits: what they select, and what is refused."""

import pytest

from vit_jax.data.splits import Slice, choose, parse_slice, parse_split
from vit_jax.errors import UserError


@pytest.mark.parametrize(
    ("split", "parsed", "positions"),
    [
        ("train", Slice("train"), (0, 7)),
        (" train [ 2 : 5 ] ", Slice("train", "2", "5"), (2, 5)),
        ("val[:30%]", Slice("val", "0", "30%"), (0, 2)),
        ("val[30%:]", Slice("val", "30%", "100%"), (2, 7)),
        ("test[-3:]", Slice("test", "-3", "100%"), (4, 7)),
        ("test[:-20%]", Slice("test", "0", "-20%"), (0, 6)),
        ("test[:]", Slice("test", "0", "100%"), (0, 7)),
        ("test[5:99]", Slice("test", "5", "99"), (5, 7)),
        ("test[-99:1]", Slice("test", "-99", "1"), (0, 1)),
    ],
)
def test_a_slice_is_positions_of_a_split(split, parsed, positions):
    assert parse_slice(split) == parsed
    assert parsed.positions(7) == slice(*positions)
    assert parsed.is_whole == ("[" not in split)


@pytest.mark.parametrize("split", ["", "train[", "train[:x]", "train[1]", "train[::2]", "train[50%%:]", "a-b"])
def test_another_form_is_refused(split):
    with pytest.raises(UserError, match=r"is not of the form train, train\[:80%\] or train\[100:200\]"):
        parse_split(split)


def test_slices_of_two_splits_cannot_be_joined():
    assert parse_split("train[:1]+train[5:]") == [Slice("train", "0", "1"), Slice("train", "5", "100%")]
    with pytest.raises(UserError, match="so read train and val separately"):
        parse_split("train+val[:5]")


def test_a_slice_takes_from_a_fixed_shuffled_order():
    """A golden: changing it would change the meaning of every sliced split."""
    assert choose(8, parse_split("train")) == list(range(8))
    assert choose(8, parse_split("train[:]")) == [2, 4, 3, 6, 5, 0, 1, 7]
    assert choose(8, parse_split("train[50%:]+train[:1]")) == [5, 0, 1, 7, 2]
