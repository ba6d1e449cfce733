import dataclasses
import json

import numpy as np
import pytest
import torch

from dspark.core.calibration import MODES, parse_calibration
from dspark.model.checkpoint import load_drafter
from dspark.model.sts import read_calibration
from dspark.training.corpus import Document, read_documents
from dspark.training.drafter import DrafterSettings, train_drafter
from dspark.training.evaluation import (
    CalibrationSettings,
    EvaluationSettings,
    acceptance_figures,
    calibrate,
    evaluate,
)
from dspark.training.features import FeatureSettings, make_features
from dspark.training.generation import DenseTarget, generate, temperature_choice
from dspark.training.judged import judge_everywhere
from dspark.training.prompts import HeldOutPrompt, PromptSource, held_out_prompts, write_prompts
from dspark.training.repeats import repeated_share
from dspark.training.repetition import PolishSettings, polish_target
from dspark.training.rollout import Rounds, play, roll_out
from dspark.training.selftext import SelfTextSettings, make_selftext
from dspark.training.target import TargetSettings, bits_per_byte, load_target, train_target
from dspark.training.tokenizer import load_tokenizer
from dspark_kernels.rejection_draft import shipped_laws
from dspark_kernels.sampling import SamplingBatch


@pytest.fixture(scope="session")
def pair(work):
    """A drafter of a few steps on the random target."""
    features = make_features(
        FeatureSettings(
            work=work,
            target=work / "target",
            out=work / "features",
            target_layer_ids=(0, 1),
            length=40,
            num_sequences=16,
            batch=8,
            prompt_lengths=(8,),
            corpus_share=0.5,
        )
    )
    settings = DrafterSettings(
        work=work / "drafting",
        target=work / "target",
        features=features,
        out=work / "drafter",
        target_layer_ids=(0, 1),
        gamma=3,
        num_layers=1,
        markov_rank=4,
        num_steps=6,
        batch=4,
        num_anchors=3,
        first_anchor=2,
    )
    train_drafter(settings)
    return settings


def test_the_dense_target_equals_the_hugging_face_model(work):
    model = load_target(work / "target")
    ids = torch.randint(7, 200, (2, 12))
    wanted = model(input_ids=ids, output_hidden_states=True)
    target = DenseTarget(model, (-1, 1))
    cache = target.new_cache(2, 12)
    first, second = target.forward(ids[:, :7], cache), target.forward(ids[:, 7:], cache)
    features, hidden = (torch.cat(parts, 1) for parts in zip(first, second, strict=True))
    taps = torch.cat((wanted.hidden_states[0], wanted.hidden_states[2]), -1)
    torch.testing.assert_close(features, taps, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(target.logits(hidden), wanted.logits, atol=1e-3, rtol=1e-3)


def test_generation_continues_its_prompts(work):
    target = DenseTarget(load_target(work / "target"), (0,))
    prompts = torch.randint(7, 200, (3, 5))
    made = generate(target, prompts, 12, temperature_choice(0.8, 1))
    assert made.ids.shape == (3, 12)
    assert torch.equal(made.ids[:, :5], prompts)
    assert made.features.shape == (3, 12, 32)


def test_rolled_out_text_is_the_models_own_greedy_text(work):
    model, tokenizer = load_target(work / "target"), load_tokenizer(work / "target")
    prompts = [HeldOutPrompt(domain="code", prompt=p) for p in ("Problem 1. What", "Add 5 and")]
    made = roll_out(
        model, tokenizer, prompts, target_layer_ids=(0,), temperature=0.0, max_new=10, spare=2,
        seed=0,
    )  # fmt: skip
    for rollout in made:
        logits = model(input_ids=rollout.ids[None, :-1]).logits[0]
        at = rollout.prompt_length
        assert len(rollout.ids) == at + 12
        assert torch.equal(logits.argmax(-1)[at - 1 :], rollout.ids[at:])


def test_the_same_seed_gives_the_same_text_whatever_else_is_in_the_batch(work):
    model, tokenizer = load_target(work / "target"), load_tokenizer(work / "target")
    prompts = [HeldOutPrompt(domain="code", prompt=p) for p in ("Add 5 and 7.", "Compute 1", "X")]
    settings = {
        "target_layer_ids": (0,), "temperature": 1.0, "max_new": 8, "spare": 2, "seed": 3
    }  # fmt: skip
    together = roll_out(model, tokenizer, prompts, **settings)
    alone = roll_out(model, tokenizer, prompts[:1], **settings)
    assert torch.equal(together[0].ids, alone[0].ids)


def test_training_writes_a_deepspec_folder_that_loads(pair):
    drafter = load_drafter(pair.out, gamma=3)
    target = load_target(pair.target)
    torch.testing.assert_close(drafter.lm_head.weight, target.lm_head.weight)
    assert drafter.config.target_layer_ids == (0, 1)
    assert json.loads((pair.out / "config.json").read_text())["num_hidden_layers"] == 1


def test_training_resumes_where_it_stopped(pair):
    train_drafter(dataclasses.replace(pair, num_steps=8))
    assert json.loads((pair.work / "drafter.json").read_text())["steps"] == 8


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_token_is_committed_once_and_rounds_add_up(pair, temperature):
    drafter = load_drafter(pair.out)
    model, tokenizer = load_target(pair.target), load_tokenizer(pair.target)
    prompts = [HeldOutPrompt(domain="code", prompt="Problem 1. What is 5")]
    for rollout in roll_out(
        model, tokenizer, prompts, target_layer_ids=(0, 1), temperature=temperature, max_new=20,
        spare=4, seed=0,
    ):  # fmt: skip
        rounds = play(drafter, rollout, temperature=temperature, max_new=20)
        assert rounds.committed.sum() >= len(rounds.output) - 1
        assert rounds.committed.sum() <= len(rounds.output) - 1 + 4
        assert rounds.logits.shape == (len(rounds.accepted), 3)


@pytest.mark.parametrize("honest", [True, False])
def test_drafts_judged_on_a_text_are_accepted_as_rejection_accepts_them(pair, honest):
    """On texts drawn from p, 1 - TV of the drafts; on other texts (control) not."""
    drafter = load_drafter(pair.out)
    num, vocab = 6_000, drafter.lm_head.weight.shape[0]
    torch.manual_seed(0)
    h = torch.randn(1, 3, drafter.config.hidden_size)
    anchor = 11
    neutral = SamplingBatch.of(temperatures=[1.0], seeds=[0], positions=[0])

    def shipped(k, previous):
        bias, _ = drafter.head_bias(torch.tensor([previous]), h[:, k])
        kept, weights = shipped_laws(drafter.base_logits(h)[:, k] + bias, neutral, 8)
        q = torch.zeros(vocab, dtype=torch.float64)
        q[torch.from_numpy(kept[0])] = torch.from_numpy(weights[0]).double()
        return q / q.sum()

    with torch.no_grad():
        q = shipped(0, anchor)
        p = 0.7 * q.roll(3) + 0.3 * q
        drawn_from = p if honest else q
        second_p = 0.6 * shipped(1, int(q.argmax())) + 0.4 * q
        text = torch.multinomial(second_p, 4 * num, replacement=True).reshape(num, 4)
        text[:, 0] = anchor
        text[:, 1] = torch.multinomial(drawn_from, num, replacement=True)
        laws = torch.stack((p, second_p, second_p, second_p)).float().repeat(num, 1)
        accepted, logits = judge_everywhere(
            drafter, h.expand(num, -1, -1), text.flatten(), torch.arange(num) * 4,
            laws, temperature=1.0, max_q_tokens=8, seed=1,
        )  # fmt: skip
        again = {
            int(t): float(torch.minimum(second_p, shipped(1, int(t))).sum()) for t in q.nonzero()
        }
    assert logits.shape == (num, 3)
    first = (accepted >= 1).double()
    chance = float(torch.minimum(p, q).sum())
    z = (float(first.mean()) - chance) / (chance * (1 - chance) / num) ** 0.5
    assert (abs(z) < 5) == honest
    if honest:
        seconds = torch.tensor([again[int(t)] for t in text[accepted >= 1, 1]])
        found = float((accepted[accepted >= 1] >= 2).double().sum())
        spread = float((seconds * (1 - seconds)).sum()) ** 0.5
        assert found > 50
        assert abs(found - float(seconds.sum())) < 5 * spread


def test_figures_count_a_position_only_where_it_was_reached():
    rounds = Rounds(
        domain="code",
        output=list(range(9)),
        committed=np.array([3, 1, 2]),
        accepted=np.array([2, 0, 2]),
        ended=np.array([False, False, True]),
        logits=np.zeros((3, 3)),
    )
    figures = acceptance_figures([rounds], 3)
    assert figures["tau"] == 2.0
    assert figures["conditional_acceptance"] == [round(2 / 3, 4), 1.0, 0.0]


def test_evaluation_writes_every_figure(pair, work, tmp_path):
    prompts = [
        HeldOutPrompt(domain=domain, prompt="Problem 1. What is")
        for domain in ("code", "prose", "arithmetic")
    ]
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    figures = evaluate(
        EvaluationSettings(
            target=pair.target,
            drafter=pair.out,
            prompts=tmp_path / "prompts.jsonl",
            held_out=work / "corpus" / "heldout.jsonl",
            out=tmp_path / "eval.json",
            max_new=6,
        )
    )
    assert json.loads((tmp_path / "eval.json").read_text()) == figures
    assert set(figures) >= {"bits_per_byte", *MODES}


def test_bits_per_byte_of_overlapping_windows_equal_those_of_one_window(work):
    model, tokenizer = load_target(work / "target"), load_tokenizer(work / "target")
    documents = [Document(domain="code", group="g", text="Add 5 and 7. " * 8)]
    whole = bits_per_byte(model, tokenizer, documents, window=512)
    assert 0 < whole < 20
    cut = bits_per_byte(model, tokenizer, documents, window=32, stride=2)
    assert abs(cut - whole) < 0.2 * whole


def test_prompts_lie_within_their_lengths_and_are_not_repeated(work):
    tokenizer = load_tokenizer(work / "target")
    documents = read_documents(work / "corpus" / "heldout.jsonl")
    counts = {"code": 3, "prose": 3, "arithmetic": 3}
    prompts = held_out_prompts(tokenizer, documents, counts)
    assert prompts
    assert len({prompt.prompt for prompt in prompts}) == len(prompts)
    assert all(32 <= len(tokenizer.encode(prompt.prompt)) <= 160 for prompt in prompts)


def test_prefixes_begin_at_a_documents_start(work):
    tokenizer = load_tokenizer(work / "target")
    source = PromptSource(work / "corpus", tokenizer)
    shares = {"code": 1.0, "prose": 1.0}
    made = source.prefixes(np.random.default_rng(0), 5, 9, shares)
    assert made.shape == (5, 9)
    assert (made[:, 0] == tokenizer.bos_token_id).all()


def test_the_chat_template_matches_the_training_form(work):
    from dspark.training.stream import document_ids

    tokenizer = load_tokenizer(work / "target")
    document = Document(domain="code", group="g", text="12.", question="Add 5 and 7.")
    turns = [
        {"role": "user", "content": "Add 5 and 7."},
        {"role": "assistant", "content": "12."},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert document_ids(tokenizer, document) == [*ids, tokenizer.eos_token_id]


def test_a_target_trains_a_few_steps_and_resumes(work, tmp_path):
    (tmp_path / "corpus").symlink_to(work / "corpus")
    settings = TargetSettings(
        work=tmp_path,
        out=tmp_path / "target",
        vocab_size=len(load_tokenizer(work / "target")),
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        num_tokens=256,
        batch_tokens=128,
        short_length=32,
        long_length=64,
        threads=1,
    )
    train_target(settings)
    train_target(dataclasses.replace(settings, num_tokens=384))
    assert json.loads((tmp_path / "target.json").read_text())["tokens"] == 384
    assert load_target(tmp_path / "target").config.num_hidden_layers == 2


def test_calibration_is_fitted_for_each_mode_and_reads_back(pair, work, tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", [HeldOutPrompt(domain="code", prompt="Add 5.")])
    settings = CalibrationSettings(
        target=pair.target,
        drafter=pair.out,
        held_out=work / "corpus" / "heldout.jsonl",
        prompts=tmp_path / "prompts.jsonl",
        out=tmp_path / "sts.json",
        num_rounds=20,
        max_new=16,
    )
    calibrate(dataclasses.replace(settings, modes=("greedy",)))
    picture = tmp_path / "reliability.svg"
    calibrate(dataclasses.replace(settings, modes=("coupled", "rejection"), plot=picture))
    assert "rejection, " in picture.read_text()
    document = json.loads((tmp_path / "sts.json").read_text())
    assert read_calibration(tmp_path, 3).rejection == tuple(document["rejection"]["temperatures"])
    for mode in MODES:
        fitted = parse_calibration(document[mode], 3)
        assert fitted.mode == mode
        assert fitted.num_samples >= 20
        assert fitted.adopted == document[mode]["adopted"]
        if not fitted.adopted:
            assert fitted.temperatures == (1.0,) * 3
    with pytest.raises(ValueError, match="held-out prompts gave"):
        calibrate(dataclasses.replace(settings, num_rounds=100_000, modes=("greedy",)))


def test_own_text_that_loops_is_left_out(work, tmp_path):
    settings = SelfTextSettings(
        work=work,
        target=work / "target",
        out=tmp_path / "own.npy",
        num_sequences=8,
        batch=4,
        prompt_length=6,
        length=20,
        temperature=1.0,
        most_repeated=0.3,
    )
    made = np.load(make_selftext(settings))
    assert made.shape[1] == 20
    assert all(repeated_share(row[6:].tolist()) <= 0.3 for row in made)


def test_polishing_writes_a_target_and_a_journal(work, tmp_path):
    (tmp_path / "corpus").symlink_to(work / "corpus")
    settings = PolishSettings(
        work=tmp_path,
        target=work / "target",
        out=tmp_path / "polished",
        deadline_s=0.05,
        batch=2,
        length=100,
        num_generated=2,
        prompt_length=8,
        generated_length=20,
        threads=1,
        sharpen=1.1,
    )
    polish_target(settings)
    facts = [json.loads(line) for line in (tmp_path / "polish.log.jsonl").read_text().splitlines()]
    assert facts[-1]["logit_scale"] > 0.9
    assert load_target(tmp_path / "polished").config.num_hidden_layers == 3
