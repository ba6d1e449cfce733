import json
from pathlib import Path

import pytest

from dspark.config.gateway import GatewaySettings
from dspark.core.logits import Grammar, GrammarKind, LogitRules
from dspark.core.sampling import Sampling, SamplingMode
from dspark.gateway.errors import ApiError
from dspark.gateway.parsing import parse_chat, parse_completion
from dspark.gateway.requests import Job, Ticket, affinity_key, chat_job, completion_job
from dspark.gateway.served_model import ServedModel, load_served_model
from tests.gateway.toy_model import write_toy_model

SETTINGS = GatewaySettings(max_choices=4, default_chat_tokens=20)
TICKET = Ticket(request_id="r", seed=77)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return load_served_model("toy", str(write_toy_model(tmp_path_factory.mktemp("toy"))))


def completion(served: ServedModel, /, **fields: object) -> Job:
    body = parse_completion(json.dumps({"model": "toy", "prompt": "hi"} | fields).encode())
    return completion_job(body, served, SETTINGS, TICKET)


def chat(served: ServedModel, /, **fields: object) -> Job:
    messages = [{"role": "user", "content": "hi"}]
    body = parse_chat(json.dumps({"model": "toy", "messages": messages} | fields).encode())
    return chat_job(body, served, SETTINGS, TICKET)


def refused(call: object, served: ServedModel, /, **fields: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(served, **fields)  # type: ignore[operator]
    return caught.value


def test_defaults_are_those_of_openai(model: ServedModel) -> None:
    generation = completion(model).generations[0].generation
    assert generation.max_new_tokens == 16
    assert generation.sampling == Sampling(temperature=1.0, seed=77)
    assert generation.stop_tokens == model.stop_token_ids
    assert generation.speculate
    assert chat(model).generations[0].generation.max_new_tokens == 20


def test_sampling_parameters_are_taken_over(model: ServedModel) -> None:
    job = completion(
        model, temperature=0.5, top_p=0.9, top_k=-1, min_p=0.1, seed=-1, max_tokens=3,
        ignore_eos=True, speculation={"enabled": True, "max_draft_tokens": 2},
    )  # fmt: skip
    generation = job.generations[0].generation
    assert generation.sampling == Sampling(
        temperature=0.5, top_p=0.9, top_k=0, min_p=0.1, seed=2**63 - 1
    )
    assert generation.stop_tokens == frozenset()
    assert generation.max_draft_tokens == 2


def test_rules_are_taken_over(model: ServedModel) -> None:
    job = chat(
        model, presence_penalty=1, frequency_penalty=-0.5, repetition_penalty=1.25,
        logit_bias={"9": 2, "0": -1.5}, response_format={"type": "json_schema",
        "json_schema": {"name": "n", "strict": True, "schema": {"type": "boolean"}}},
        logprobs=True,
    )  # fmt: skip
    generation = job.generations[0].generation
    assert generation.rules == LogitRules(
        bias=((0, -1.5), (9, 2.0)),
        repetition_penalty=1.25,
        frequency_penalty=-0.5,
        presence_penalty=1.0,
        grammar=Grammar(kind=GrammarKind.JSON_SCHEMA, text='{"type": "boolean"}'),
    )
    assert (generation.top_logprobs, job.logprobs) == (0, True)
    regex = completion(model, structured_outputs={"regex": "a+"}, logprobs=2).generations[0]
    assert regex.generation.rules.grammar == Grammar(kind=GrammarKind.REGEX, text="a+")
    assert regex.generation.top_logprobs == 2
    plain = chat(model, logprobs=False, response_format={"type": "text"}, logit_bias={})
    assert not plain.generations[0].generation.wants_processor


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"logit_bias": {"100000": 1}}, "logit_bias", "'100000' is not a token id within 0..259"),
        ({"logit_bias": {"the": 1}}, "logit_bias", "'the'"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "'-1'"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "belongs to the type",
        ),
        ({"top_logprobs": 3}, "top_logprobs", "only allowed when 'logprobs' is true"),
        (
            {"response_format": {"type": "json_object"}, "ignore_eos": True},
            "ignore_eos",
            "the end of text",
        ),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs",
            "only one of",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"not": {"type": "string"}}},
                }
            },
            "response_format",
            'cannot be followed: Unimplemented keys: ["not"]',
        ),
    ],
)
def test_rules_that_cannot_be_followed_are_refused_by_name(
    model: ServedModel, fields: dict[str, object], param: str, words: str
) -> None:
    error = refused(chat, model, **fields)
    assert (error.status, error.param) == (400, param)
    assert words in error.message


def test_choices_of_a_short_prompt_go_to_one_verifier(model: ServedModel) -> None:
    keys = {routed.affinity_key for routed in completion(model, n=3).generations}
    assert len(keys) == 1
    assert None not in keys
    assert completion(model).generations[0].affinity_key is None


def test_each_choice_has_noise_of_its_own(model: ServedModel) -> None:
    job = completion(model, prompt=["x", "y"], n=2)
    got = [(g.generation.request_id, g.generation.sampling.choice) for g in job.generations]
    assert got == [("r-0", 0), ("r-1", 1), ("r-2", 0), ("r-3", 1)]
    assert job.prompt_tokens == 2


def test_a_chat_is_rendered_with_the_models_template(model: ServedModel) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
    ]
    expected = model.codec.encode("s:be brief<end>u:hi<end>a:")
    assert chat(model, messages=messages).prompts == (tuple(expected),)


def test_another_model_is_not_found(model: ServedModel) -> None:
    error = refused(completion, model, model="gpt-9")
    assert (error.status, error.param, error.code) == (404, "model", "model_not_found")


def test_too_long_a_context_is_refused_with_both_numbers(model: ServedModel) -> None:
    error = refused(completion, model, prompt=[1] * 100, max_tokens=29)
    assert (error.param, error.code) == ("prompt", "context_length_exceeded")
    assert "128" in error.message
    assert "129" in error.message
    completion(model, prompt=[1] * 100, max_tokens=28)


def test_a_chat_without_a_bound_gets_what_room_is_left(model: ServedModel) -> None:
    messages = [{"role": "user", "content": "x" * 115}]
    job = chat(model, messages=messages)
    assert job.generations[0].generation.max_new_tokens == 128 - job.prompt_tokens


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [5, 100_000]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"n": 5}, "n"),
        ({"prompt": ["x"] * 5}, "prompt"),
        ({"best_of": 2}, "best_of"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    model: ServedModel, fields: dict[str, object], param: str
) -> None:
    error = refused(completion, model, **fields)
    assert (error.status, error.param) == (400, param)


def test_prompts_with_the_same_beginning_share_an_affinity_key() -> None:
    assert affinity_key([1] * 64) == affinity_key([1] * 64 + [2])
    assert affinity_key([1] * 64) != affinity_key([2] * 64)
    assert affinity_key([1] * 63) is None


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_one_clear_line(tmp_path: Path, missing: str) -> None:
    folder = write_toy_model(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=missing) as caught:
        load_served_model("toy", str(folder))
    assert "\n" not in str(caught.value)


def mode(served: ServedModel, deployed: str = "coupled", /, **fields: object) -> SamplingMode:
    body = parse_completion(json.dumps({"model": "toy", "prompt": "hi"} | fields).encode())
    settings = GatewaySettings(speculation_mode=deployed)  # type: ignore[arg-type]
    return completion_job(body, served, settings, TICKET).generations[0].generation.sampling.mode


def test_a_seed_means_coupled_unless_the_request_says_otherwise(model: ServedModel) -> None:
    rejection, coupled = SamplingMode.REJECTION, SamplingMode.COUPLED
    assert mode(model) is coupled
    assert mode(model, "rejection") is rejection
    assert mode(model, "rejection", seed=3) is coupled
    assert mode(model, "rejection", speculation={"mode": "coupled"}) is coupled
    assert mode(model, seed=3, speculation={"mode": "rejection"}) is rejection


def test_an_unknown_mode_is_refused(model: ServedModel) -> None:
    error = refused(completion, model, speculation={"mode": "typical"})
    assert (error.status, error.param) == (400, "speculation.mode")


def test_a_priority_is_taken_over_and_bounded(model: ServedModel) -> None:
    assert completion(model).generations[0].generation.priority == 0
    assert completion(model, priority=-7).generations[0].generation.priority == -7
    with pytest.raises(ApiError, match="priority"):
        completion(model, priority=2**31)
