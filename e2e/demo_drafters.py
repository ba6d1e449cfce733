"""Drafters for the shipped target: the trained one, an untrained one, and one that means harm.

All three make their rows with the trained one's projection, as a handshake demands.
"""

import json
from functools import lru_cache
from pathlib import Path

import torch

from dspark.model.checkpoint import load_drafter, save_drafter
from dspark.model.target_folder import local_folder

TARGET, TRAINED = "builtin:demo/target", "builtin:demo/drafter"
NAMES = ("trained", "untrained", "adversarial")


@lru_cache
def drafter_folder(name: str, folder: Path) -> str:
    """Write this drafter into ``folder``, or name the shipped one."""
    if name == "trained":
        return TRAINED
    made = load_drafter(local_folder(TRAINED, what="drafter"))
    state = made.state_dict()
    if name == "untrained":
        torch.manual_seed(5)
        for key, tensor in state.items():
            if not key.startswith(("fc.", "hidden_norm.", "embed_tokens.", "lm_head.")):
                torch.nn.init.normal_(tensor, mean=float(tensor.dim() == 1), std=0.05)
    else:
        # What it means is right; what it says is the next token's id, and it is sure of that.
        for key in ("lm_head.weight", "markov_head.markov_w2.weight"):
            state[key].copy_(state[key].roll(1, dims=0))
        state["confidence_head.proj.weight"].zero_()
        state["confidence_head.proj.bias"].fill_(20.0)
    config = local_folder(TARGET, what="target") / "config.json"
    save_drafter(folder / name, made, json.loads(config.read_text(encoding="utf-8")))
    return str(folder / name)
