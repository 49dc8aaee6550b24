"""The vocabulary: decoding restores the text exactly, and training is deterministic."""

import json
import pickle
import random

import pytest

from vit_jax.data.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Vocabulary
from vit_jax.errors import UserError

SENTENCES = [
    "Open the file.",
    "Close the window",
    "L'applicazione è stata chiusa",
    "Perché no?",
    "open a new file",
    "chiudi la finestra",
]


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train(SENTENCES, 300)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "   ",
        "  two at the beginning",
        "at the end  ",
        "in  the   middle",
        "a\tb\t",
        "line\nline\r\nline",
        "\x00\x01\x1f\x7f",
        "\x85\u2028\u2029",
        "à è ì ò ù É",
        "e\u0301",
        "🙂 👩‍👩‍👧 🇮🇹",
        "ﬁ ㍿ \u00a0\u3000\u200b\ufeff",
        "\ufffd\ue000\U0010ffff",
        "\u2581",
        "a\u2581 b\u2581\u2581",
        "<pad> <s> </s> <unk> <0x41>",
        "日本語",
    ],
)
def test_every_text_comes_back(vocabulary, text):
    tokens = vocabulary.encode(text)
    assert vocabulary.decode(tokens) == text
    assert min(tokens, default=UNK_ID + 1) > UNK_ID


def test_random_texts_come_back_one_by_one_and_together(vocabulary):
    rng = random.Random(0)
    letters = "  \t\n\r\0\u2028\x85abéè🙂\u0301\u3000\u00a0<>s/.\u2581"
    texts = ["".join(rng.choices(letters, k=rng.randrange(9))) for _ in range(3000)]
    encoded = vocabulary.encode_all(texts)
    assert [vocabulary.decode(tokens) for tokens in encoded] == texts
    assert encoded == [vocabulary.encode(text) for text in texts]


def test_known_words_are_fewer_tokens_than_letters(vocabulary):
    assert len(vocabulary.encode("open the file")) <= 6
    assert len(vocabulary.encode("日本語")) == 9  # bytes


def test_special_tokens(vocabulary):
    assert (PAD_ID, BOS_ID, EOS_ID, UNK_ID) == (0, 1, 2, 3)
    hello, more = vocabulary.encode("open"), vocabulary.encode(" file")
    assert vocabulary.decode([BOS_ID, *hello, PAD_ID, UNK_ID, *more, EOS_ID, *hello, PAD_ID]) == "open file"
    assert vocabulary.decode([EOS_ID]) == vocabulary.decode([]) == vocabulary.decode([PAD_ID] * 3) == ""


def test_half_a_character_does_not_stop_decoding(vocabulary):
    assert vocabulary.decode(vocabulary.encode("日")[:2]) == "\ufffd\ufffd"


def test_training_is_deterministic_and_depends_on_the_text(vocabulary):
    assert Vocabulary.train(SENTENCES, 300).model == vocabulary.model
    assert Vocabulary.train(iter(SENTENCES), 300) == vocabulary
    assert Vocabulary.train(SENTENCES[:4], 300) != vocabulary
    assert len({vocabulary, Vocabulary.train(SENTENCES, 300), Vocabulary.train(SENTENCES, 301)}) == 2


def test_it_travels_as_json_and_as_pickle(vocabulary):
    for copy in (
        Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))),
        pickle.loads(pickle.dumps(vocabulary)),
    ):
        assert copy == vocabulary
        assert copy.encode("open the window") == vocabulary.encode("open the window")


def test_what_a_model_takes_of_it(vocabulary):
    assert vocabulary.key == "text"
    assert vocabulary.model_fields == {"vocab_size": 300, "pad_id": 0}
    assert len(vocabulary) == 300


def test_a_text_too_small_says_how_many_subwords_it_has():
    with pytest.raises(
        UserError, match=r"config.data.vocab_size=8000 is too large: the training text has only (\d+) sub-words"
    ) as error:
        Vocabulary.train(SENTENCES, 8000)
    largest = int(str(error.value).split(" sub-words")[0].split()[-1])
    assert len(Vocabulary.train(SENTENCES, largest)) == largest
    with pytest.raises(UserError):
        Vocabulary.train(SENTENCES, largest + 1)


def test_a_vocabulary_too_small_says_what_it_must_hold():
    with pytest.raises(
        UserError, match=r"config.data.vocab_size=270 is too small for the (\d+) characters.*Use (\d+)"
    ) as error:
        Vocabulary.train(SENTENCES, 270)
    least = int(str(error.value).split("Use ")[1].split()[0])
    assert len(Vocabulary.train(SENTENCES, least)) == least
    with pytest.raises(UserError):
        Vocabulary.train(SENTENCES, least - 1)


@pytest.mark.parametrize("sentences", [[], ["", "  "], ["\u2581"]])
def test_nothing_to_learn_from(sentences):
    with pytest.raises(UserError, match="every sentence is empty"):
        Vocabulary.train(sentences, 300)


def test_invalid_unicode_is_refused_by_name(vocabulary):
    with pytest.raises(UserError, match=r"'ab\\ud800' is not valid Unicode: character 3"):
        vocabulary.encode("ab\ud800")


def test_of_very_many_sentences_evenly_spaced_ones_are_learned(monkeypatch):
    monkeypatch.setattr("vit_jax.data.text.vocabulary.TRAINING_SENTENCES", 2)
    assert Vocabulary.train(SENTENCES, 290) == Vocabulary.train([SENTENCES[0], SENTENCES[3]], 290)


def test_a_sentence_of_any_length_is_learned():
    long = " ".join(["antidisestablishmentarianism"] * 2000)
    assert len(Vocabulary.train(["short", long], 290).encode("antidisestablishmentarianism")) <= 10


def test_pieces_are_shown_as_text(vocabulary):
    pieces = [vocabulary.piece(token) for token in vocabulary.encode("open the file")]
    assert "".join(pieces).replace("\u2581", " ") == "open the file"
    assert [vocabulary.piece(token) for token in (PAD_ID, BOS_ID, EOS_ID)] == ["<pad>", "<s>", "</s>"]
    assert vocabulary.piece(vocabulary.encode("日")[0]) == "<0xE6>"
