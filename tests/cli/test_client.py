import json

import httpx
import pytest

from dspark.cli.client import Outcome, stream


def client(answer: httpx.Response) -> httpx.AsyncClient:
    transport = httpx.MockTransport(lambda request: answer)
    return httpx.AsyncClient(base_url="http://server", transport=transport)


async def read(answer: httpx.Response) -> Outcome:
    outcome = Outcome()
    async with client(answer) as connection:
        async for chunk in stream(connection, "/v1/completions", {"prompt": "x"}):
            outcome.add(chunk)
    return outcome


def events(*bodies: object) -> httpx.Response:
    lines = [f"data: {json.dumps(body)}\n\n" for body in bodies]
    return httpx.Response(200, text="".join([*lines, "data: [DONE]\n\n"]))


async def test_text_tokens_and_counts_are_collected() -> None:
    counts = {"mean_acceptance_length": 2.5, "num_spec_steps": 4}
    outcome = await read(
        events(
            {"choices": [{"text": "a", "token_ids": [1, 2, 3]}]},
            {"choices": [{"text": "b", "token_ids": [4]}]},
            {"choices": [], "metrics": {"speculative_decoding": counts}},
        )
    )
    assert outcome.text == "ab"
    assert outcome.token_ids == [1, 2, 3, 4]
    assert outcome.tokens_per_event == 2.0
    assert outcome.accepted_length == 2.5


async def test_chat_deltas_are_text_too() -> None:
    outcome = await read(events({"choices": [{"delta": {"content": "hello"}}]}))
    assert outcome.text == "hello"


async def test_nothing_drafted_has_no_accepted_length() -> None:
    outcome = await read(events({"choices": [], "metrics": {"speculative_decoding": None}}))
    assert outcome.accepted_length is None


async def test_a_refusal_carries_the_servers_own_words() -> None:
    answer = httpx.Response(404, json={"error": {"message": "no model x"}})
    with pytest.raises(ValueError, match="404: no model x"):
        await read(answer)


async def test_an_error_in_the_stream_is_not_an_end() -> None:
    with pytest.raises(ConnectionError, match="the verifier is gone"):
        await read(events({"error": {"message": "the verifier is gone"}}))


async def test_a_server_that_is_not_there_is_named() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async with httpx.AsyncClient(
        base_url="http://server", transport=httpx.MockTransport(refuse)
    ) as connection:
        with pytest.raises(ConnectionError, match="http://server"):
            async for _ in stream(connection, "/v1/completions", {}):
                pass
