"""``dspark check-pair``: whether a drafter belongs to a target, before either is loaded."""

from typing import Annotated

import typer


def check_pair(
    target: Annotated[str, typer.Argument(help="Folder, builtin: name or hub id.")],
    drafter: Annotated[str, typer.Argument(help="Folder, builtin: name or hub id.")],
) -> None:
    """Check sizes, layers, tokenizers and training of a pair; exit 1 where they do not fit.

    Of the target only the configuration and the tokenizer are read, of the drafter its
    configuration and the headers of its weights.
    """
    # Help and completion need no torch.
    from dspark.model.pair import check_fit

    config = check_fit(target, drafter)
    print(f"the pair fits: {config.gamma} draft tokens a round from {len(config.target_layer_ids)} "
          f"layers of the target")  # fmt: skip
