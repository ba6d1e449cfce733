"""``dspark generate``: the engines in this process, no stack needed."""

import json
import sys
import time
from dataclasses import asdict
from typing import Annotated

import typer

from dspark.cli.options import Config, Json, Set, load


def generate(
    prompt: Annotated[str, typer.Option(help="Text to continue; - reads standard input.")],
    config: Config = None,
    set_: Set = None,
    speculation: Annotated[
        str, typer.Option(help="off, fixed:K (verify K drafts a round) or adaptive.")
    ] = "adaptive",
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    max_tokens: Annotated[int, typer.Option(min=1)] = 128,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a message.")] = False,
    as_json: Json = False,
) -> None:
    """Generate in this process: the served engines, joined by memory instead of gRPC.

    JSON: {"text", "token_ids", "prompt_tokens", "finish_reason", "speculation", "seconds",
    "tokens_per_s", "accepted_length", "stats": {counts over the verify steps}}.
    """
    from dspark.core.generation import Generation
    from dspark.core.sampling import Sampling
    from dspark.gateway.detokenize import Detokenizer
    from dspark.gateway.served_model import load_served_model
    from dspark.local.system import Ended, LocalSystem, Speculation

    how = Speculation.parse(speculation)
    model = load(config, set_, None).model
    served = load_served_model(model.name, model.target)
    text = sys.stdin.read() if prompt == "-" else prompt
    ids = (
        served.codec.encode_chat([{"role": "user", "content": text}])
        if chat
        else served.codec.encode(text)
    )
    request = Generation(
        request_id="local",
        prompt=tuple(ids),
        max_new_tokens=max_tokens,
        sampling=Sampling(temperature=temperature, seed=seed),
        stop_tokens=served.stop_token_ids,
        speculate=how.enabled,
        max_draft_tokens=how.max_draft_tokens,
    )
    num_pages = -(-(request.total_tokens + 64) // model.page_tokens)
    detokenizer = Detokenizer(served.codec.decode)
    tokens: list[int] = []
    pieces: list[str] = []
    ended: Ended | None = None

    def say(piece: str) -> None:
        pieces.append(piece)
        if not as_json:
            print(piece, end="", flush=True)

    with LocalSystem(model, how, num_pages=max(256, num_pages)) as system:
        began_s = time.perf_counter()
        for event in system.stream(request):
            if isinstance(event, Ended):
                ended = event
                continue
            tokens += event
            for token in event:
                say(detokenizer.push(token))
        say(detokenizer.finish())
        seconds = time.perf_counter() - began_s
    assert ended is not None
    stats = ended.stats
    drafted = stats.drafted_steps
    accepted = 1 + stats.accepted_draft_tokens / drafted if drafted else None
    if as_json:
        answer = {
            "text": "".join(pieces),
            "token_ids": tokens,
            "prompt_tokens": len(ids),
            "finish_reason": ended.reason.value,
            "speculation": speculation,
            "seconds": round(seconds, 4),
            "tokens_per_s": round(len(tokens) / seconds, 2),
            "accepted_length": None if accepted is None else round(accepted, 4),
            "stats": asdict(stats),
        }
        print(json.dumps(answer, indent=1))
        return
    tau = "" if accepted is None else f", accepted length {accepted:.2f}"
    print(
        f"\n\n{len(tokens)} tokens in {seconds:.2f} s, {len(tokens) / seconds:.0f} tokens/s{tau}, "
        f"{stats.steps} steps",
        file=sys.stderr,
    )
