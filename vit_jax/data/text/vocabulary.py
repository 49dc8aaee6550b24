"""The encoder of text: sub-words learned from the training split, saved with the checkpoint."""

import base64
import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from vit_jax.errors import UserError, counted

PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)
TRAINING_SENTENCES = 4_000_000  # more sentences are subsampled at equal distances

_SPACE = "\u2581"  # sentencepiece's sign for a space: the only character that does not survive its round trip


class Vocabulary:
    """Byte-pair encoding (arXiv:1508.07909) by sentencepiece, shared by both languages.

    It is lossless: `decode(encode(text)) == text` for every text, including spaces and control characters. Text is not
    normalised, and characters that were not in the training text are encoded as bytes, so that `UNK_ID` is never used.
    Vocabularies are compared by content, and can be pickled.
    """

    key: ClassVar[str] = "text"
    views: ClassVar[int] = 1

    def __init__(self, model: bytes):
        """Wraps a serialised sentencepiece model."""
        self.model = model

    @classmethod
    def train(cls, sentences: Iterable[str], size: int) -> "Vocabulary":
        """Learns `size` sub-words. The result is deterministic.

        Raises:
          UserError: The sentences have fewer sub-words (the message says how many), or more characters than `size`
            allows.
        """
        import sentencepiece

        parts = [part for sentence in _sample(sentences) for part in sentence.split(_SPACE) if part.strip()]
        if not parts:
            raise UserError("cannot learn a vocabulary: every sentence is empty")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(parts),
                model_writer=model,
                model_type="bpe",
                vocab_size=size,
                hard_vocab_limit=False,  # checked below, with a message that says which size is possible
                byte_fallback=True,
                character_coverage=1.0,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                max_sentence_length=2**30,  # in bytes; sentencepiece silently drops longer sentences
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
                f"config.data.vocab_size={size} is too small for the {counted(characters, 'characters')} of the "
                f"training text, 256 bytes and 4 special tokens. Use {characters + 260} or more."
            ) from error
        vocabulary = cls(model.getvalue())
        if len(vocabulary) < size:
            found = counted(len(vocabulary), "sub-words")
            raise UserError(f"config.data.vocab_size={size} is too large: the training text has only {found}")
        return vocabulary

    def __len__(self) -> int:
        return self._processor.get_piece_size()

    @property
    def model_fields(self) -> dict[str, Any]:
        """Fields of a Transformer that are determined by the vocabulary."""
        return {"vocab_size": len(self), "pad_id": PAD_ID}

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, without the special tokens for beginning and end.

        Raises:
          UserError: The text is not valid Unicode: it contains an unpaired surrogate.
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Like `encode`, for many texts at once."""
        for text in texts:
            check_unicode(text)
        encoded = self._processor.encode(list(texts))
        for i, text in enumerate(texts):
            if _SPACE in text:
                encoded[i] = self._in_parts(text)
        return encoded

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the tokens before the first end token; other special tokens are ignored."""
        tokens = []
        for token in map(int, ids):
            if token == EOS_ID:
                break
            if token > UNK_ID:
                tokens.append(token)
        return self._processor.decode(tokens)

    def piece(self, token: int) -> str:
        """Returns a token as text, with "\u2581" for a space; bytes are `<0x0A>`, special tokens `</s>`."""
        return self._processor.id_to_piece(int(token))

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-compatible values; `from_dict` is the inverse."""
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
        """Encodes a text that contains sentencepiece's sign for a space, spelling the sign in bytes."""
        sign = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()]
        tokens, *rest = self._processor.encode(text.split(_SPACE))
        for part in rest:
            tokens += sign + part
        return tokens


class UnreadVocabulary(Vocabulary):
    """As many sub-words as told, which are not known: a text is the number of its tokens. See `data.unread`."""

    def __init__(self, size: int):
        super().__init__(b"")
        self._size = size

    def __len__(self) -> int:
        return self._size

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [[UNK_ID] * int(text) for text in texts]


def check_unicode(text: str, name: str = "") -> None:
    """Raises `UserError`, calling the text `name`, if it contains an unpaired surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name or repr(text)} is not valid Unicode: character {error.start + 1} is an unpaired surrogate"
        ) from None


def _sample(sentences: Iterable[str]) -> Sequence[str]:
    sentences = list(sentences)
    every = -(-len(sentences) // TRAINING_SENTENCES)
    return sentences[:: max(every, 1)]
