import random

import pytest
import torch
from transformers import Qwen3ForCausalLM

from dspark.training.arithmetic import worked_page, worked_problem
from dspark.training.corpus import CorpusSettings, Document, write_documents
from dspark.training.stream import build_streams, save_streams
from dspark.training.target import TargetSettings, new_target, save_target
from dspark.training.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A work folder with a tiny corpus, its tokenizer and a random target in ``target``."""
    folder = tmp_path_factory.mktemp("work")
    rng = random.Random(0)
    documents = []
    for i in range(60):
        domain = ("code", "prose", "arithmetic")[i % 3]
        question, answer = worked_problem(rng)
        documents.append(
            Document(domain=domain, group=f"g{i}", text=worked_page(rng, 6))
            if i % 2
            else Document(domain=domain, group=f"g{i}", text=answer, question=question)
        )
    (folder / "corpus").mkdir()
    write_documents(folder / "corpus" / "train.jsonl", documents[:40])
    write_documents(folder / "corpus" / "heldout.jsonl", documents[40:])
    tokenizer = train_tokenizer([d.text for d in documents], 300)
    tokenizer.save_pretrained(str(folder / "corpus" / "tokenizer"))
    save_streams(folder / "corpus" / "train.npz", build_streams(tokenizer, documents[:40], 0))
    settings = TargetSettings(
        work=folder,
        out=folder / "target",
        corpus=CorpusSettings(),
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_layers=3,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
    )
    torch.set_num_threads(1)
    model: Qwen3ForCausalLM = new_target(settings, tokenizer)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(4.0)  # peaked enough for greedy text to be stable
    save_target(folder / "target", model, tokenizer)
    return folder
