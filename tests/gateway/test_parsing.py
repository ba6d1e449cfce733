import json

import pytest

from dspark.gateway.errors import ApiError
from dspark.gateway.parsing import parse_chat, parse_completion

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}


def refused_chat(**fields: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_chat(json.dumps(CHAT | fields).encode())
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 3),
        ("temperature", "0.7"),
        ("top_p", 0),
        ("top_k", -2),
        ("min_p", 1.5),
        ("n", 0),
        ("max_tokens", 0),
        ("max_completion_tokens", 1.5),
        ("seed", "x"),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", ""),
        ("stream", "yes"),
        ("ignore_eos", 1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("logit_bias", [1]),
        ("logprobs", 3),
        ("top_logprobs", 21),
        ("top_logprobs", -1),
        ("response_format", "json"),
        ("messages", []),
        ("messages", "hi"),
    ],
)
def test_a_bad_value_is_refused_by_name(field: str, value: object) -> None:
    error = refused_chat(**{field: value})
    assert error.param == field
    assert error.code == "invalid_value"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("modalities", ["audio"]),
    ],
)
def test_what_would_change_the_output_but_is_not_supported_is_refused(
    field: str, value: object
) -> None:
    error = refused_chat(**{field: value})
    assert error.param == field
    assert error.code == "unsupported_parameter"


def test_neutral_values_of_unsupported_fields_are_accepted() -> None:
    neutral = {"tools": [], "logprobs": False, "presence_penalty": 0.0, "logit_bias": None}
    parse_chat(json.dumps(CHAT | neutral | {"response_format": {"type": "text"}}).encode())


def test_an_unknown_field_is_refused_by_name() -> None:
    error = refused_chat(temprature=1)
    assert error.param == "temprature"
    assert "temprature" in error.message


def test_nested_complaints_name_their_place() -> None:
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    assert refused_chat(messages=[{"role": "user", "content": image}]).param == (
        "messages[0].content"
    )
    assert refused_chat(messages=[{"role": "king", "content": "x"}]).param == "messages[0].role"
    assert refused_chat(speculation={"enabled": "x"}).param == "speculation.enabled"
    assert refused_chat(logit_bias={"5": 101}).param == "logit_bias"
    form = {"type": "json_schema", "json_schema": {"name": "x"}}
    assert refused_chat(response_format=form).param == "response_format.json_schema.schema"
    assert refused_chat(response_format={"type": "xml"}).param == "response_format.type"
    assert refused_chat(structured_outputs={"regex": ""}).param == "structured_outputs.regex"
    assert (
        refused_chat(structured_outputs={"regex": "a", "choice": ["a"]}).code == "unknown_parameter"
    )
    calls = [{"role": "assistant", "tool_calls": [{}]}]
    assert refused_chat(messages=calls).param == "messages[0].tool_calls"


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ApiError) as caught:
        parse_completion(b'{"model": "m"}')
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("raw", [b"{", b"[1]", b"", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_completion(raw)
    assert caught.value.status == 400
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("prompt", ["x", [1, 2], ["x", "y"], [[1], [2]]])
def test_all_forms_of_a_prompt_are_read(prompt: object) -> None:
    assert parse_completion(json.dumps(COMPLETION | {"prompt": prompt}).encode()).prompt == prompt


@pytest.mark.parametrize("prompt", [5, [1.5], [["x"]], None])
def test_other_prompts_are_refused(prompt: object) -> None:
    with pytest.raises(ApiError) as caught:
        parse_completion(json.dumps(COMPLETION | {"prompt": prompt}).encode())
    assert caught.value.param == "prompt"
