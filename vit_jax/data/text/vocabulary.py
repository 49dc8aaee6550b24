"""Sub-words: what makes text into tokens and back, learned from the training split and saved with the checkpoint."""

import base64
import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from vit_jax.errors import UserError

PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)
TRAINING_SENTENCES = 4_000_000  # at most; of more, evenly spaced ones are taken

_SPACE = "\u2581"  # sentencepiece's own sign for a space: the one character it does not give back


class Vocabulary:
    """Byte-pair encoding (arXiv:1508.07909) by sentencepiece, one for both languages.

    Lossless: `decode(encode(text)) == text` for every text, spaces and control characters included. Nothing is
    normalised, and characters that training did not meet are spelled in bytes, so that `UNK_ID` is never used.
    Equal by content, and pickles.
    """

    key: ClassVar[str] = "text"
    views: ClassVar[int] = 1

    def __init__(self, model: bytes):
        """Takes a trained sentencepiece model, serialised."""
        self.model = model

    @classmethod
    def train(cls, sentences: Iterable[str], size: int) -> "Vocabulary":
        """Learns `size` sub-words; the same sentences and size give the same bytes.

        Raises:
          UserError: The sentences do not have that many sub-words (the message says how many they have), or more
            characters than `size` has room for.
        """
        import sentencepiece

        parts = [part for sentence in _sample(sentences) for part in sentence.split(_SPACE) if part.strip()]
        if not parts:
            raise UserError("there is no text to learn a vocabulary from: every sentence is empty")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(parts),
                model_writer=model,
                model_type="bpe",
                vocab_size=size,
                hard_vocab_limit=False,  # reached or not is seen below, which can say what would be
                byte_fallback=True,
                character_coverage=1.0,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                max_sentence_length=2**30,  # bytes; longer ones would be passed over in silence
                num_threads=1,
                pad_id=PAD_ID,
                bos_id=BOS_ID,
                eos_id=EOS_ID,
                unk_id=UNK_ID,
                minloglevel=2,
            )
        except RuntimeError as error:
            characters = len(set("".join(parts)))
            raise UserError(
                f"data.vocab_size={size} has no room for {characters} characters, 256 bytes and 4 special tokens: "
                f"take {characters + 260} or more ({str(error).splitlines()[-1].split('] ')[-1]})"
            ) from None
        vocabulary = cls(model.getvalue())
        if len(vocabulary) < size:
            raise UserError(f"data.vocab_size={size}: the training text has {len(vocabulary)} sub-words; take fewer")
        return vocabulary

    def __len__(self) -> int:
        return self._processor.get_piece_size()

    @property
    def model_fields(self) -> dict[str, Any]:
        """The fields of a Transformer that follow from the vocabulary."""
        return {"vocab_size": len(self), "pad_id": PAD_ID}

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, without beginning and end.

        Raises:
          UserError: The text is no Unicode (it has a surrogate alone).
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`, for many texts at once."""
        for text in texts:
            check_unicode(text)
        encoded = self._processor.encode(list(texts))
        for i, text in enumerate(texts):
            if _SPACE in text:
                encoded[i] = self._in_parts(text)
        return encoded

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text up to the end token, if there is one; the other special tokens are left out."""
        tokens = []
        for token in map(int, ids):
            if token == EOS_ID:
                break
            if token > UNK_ID:
                tokens.append(token)
        return self._processor.decode(tokens)

    def piece(self, token: int) -> str:
        """Returns how a token is shown, with "\u2581" for a space; bytes and special tokens as `<0x0A>` and `</s>`."""
        return self._processor.id_to_piece(int(token))

    def to_dict(self) -> dict[str, Any]:
        """The vocabulary as JSON-compatible values; `from_dict` is the inverse."""
        return {"sentencepiece": base64.b64encode(self.model).decode()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Vocabulary":
        return cls(base64.b64decode(fields["sentencepiece"]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.model == other.model

    def __hash__(self) -> int:
        return hash(self.model)

    def __reduce__(self):
        return Vocabulary, (self.model,)

    @functools.cached_property
    def _processor(self) -> Any:
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    def _in_parts(self, text: str) -> list[int]:
        """Spells sentencepiece's sign for a space in bytes."""
        sign = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()]
        tokens, *rest = self._processor.encode(text.split(_SPACE))
        for part in rest:
            tokens += sign + part
        return tokens


def check_unicode(text: str, name: str = "") -> None:
    """Raises UserError, calling the text `name`, if it has half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name or repr(text)} is not valid Unicode: character {error.start + 1} is a surrogate alone"
        ) from None


def _sample(sentences: Iterable[str]) -> Sequence[str]:
    sentences = list(sentences)
    every = -(-len(sentences) // TRAINING_SENTENCES)
    return sentences[:: max(every, 1)]
