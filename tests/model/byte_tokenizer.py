"""A tokenizer of bytes and a few pairs, in the 256 ids of the tiny models."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dspark.model.grammar import Grammars
from tests.model import tiny

PAIRS = (("t", "r"), ("u", "e"), ("{", '"'), ('"', ":"), ("a", "b"), ("1", "2"))
STOP = 0


def tokenizer() -> Tokenizer:
    """Printable ASCII, newline, the pairs, and "<eos>" as token 0."""
    letters = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    vocab = {"<eos>": STOP} | {letter: index for index, letter in enumerate(letters, 1)}
    vocab |= {a + b: len(vocab) + index for index, (a, b) in enumerate(PAIRS)}
    made = Tokenizer(models.BPE(vocab=vocab, merges=list(PAIRS)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<eos>"])
    return made


def grammars() -> Grammars:
    return Grammars(tokenizer().to_str(), tiny.VOCAB)
