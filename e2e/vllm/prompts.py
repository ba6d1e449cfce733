"""The prompts that every engine here is given, as token ids; greedy, up to NUM_TOKENS."""

from tokenizers import Tokenizer

from dspark.bench.prompts import BUILTIN, load_prompts
from dspark.model.target_folder import local_folder

TARGET = local_folder("builtin:demo/target", what="target")
NUM_PROMPTS, NUM_TOKENS = 100, 48
_MAX_PROMPT_TOKENS = 200


def prompts(count: int = NUM_PROMPTS) -> list[list[int]]:
    """The first ``count`` packaged prompts, mixed over their domains."""
    tokenizer = Tokenizer.from_file(str(TARGET / "tokenizer.json"))
    texts = load_prompts(BUILTIN, None, seed=0)[:count]
    return [tokenizer.encode(prompt.text).ids[:_MAX_PROMPT_TOKENS] for prompt in texts]
