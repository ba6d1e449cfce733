"""``python -m e2e.peers``: every peer on the same cells, interleaved; a table and a JSON file."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

from e2e.peers.cell import ANSWERS, Answer, Cell
from e2e.vllm.drafters import ROOT, DrafterProcess, own_environment
from e2e.vllm.prompts import prompts

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dspark"
_WARM_UP = 2
"""Prompts that every peer runs before anything is timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One cell on one peer."""

    arm: str
    concurrency: int
    repeat: int
    place: int
    tokens_per_s: float
    tokens_per_s_user: float
    accepted_length: float | None
    same_text: float


class Peer:
    """A loaded peer on the given cores."""

    def __init__(self, arm: str, command: Sequence[str], *, cores: set[int], threads: int) -> None:
        self.arm = arm
        ours, theirs = os.pipe()
        environment = {"OMP_NUM_THREADS": str(threads), ANSWERS: str(theirs)}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            text=True,
            cwd=ROOT,
            env={**own_environment(), **environment, **_preload(command[0])},
            pass_fds=(theirs,),
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        os.close(theirs)
        self._answers = os.fdopen(ours)
        self._read()

    def run(self, cell: Cell) -> Answer:
        assert self._process.stdin is not None
        print(json.dumps(asdict(cell)), file=self._process.stdin, flush=True)
        return Answer(**json.loads(self._read()))

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20.0)
        self._process.kill()
        self._process.wait()
        self._answers.close()

    def _read(self) -> str:
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"{self.arm} ended with {self._process.wait()}")
        return line


def _preload(python: str) -> dict[str, str]:
    """vLLM's advice for the CPU: Intel's OpenMP first, where its environment has it."""
    library = Path(python).parent.parent / "lib" / "libiomp5.so"
    return {"LD_PRELOAD": str(library)} if library.exists() else {}


@contextlib.contextmanager
def _peers(given: argparse.Namespace) -> Iterator[list[Peer]]:
    vllm = str(given.vllm / "bin" / "python")
    cores = set(given.cores)
    half = max(1, len(cores) // 2)
    eager = ["--eager"] if given.eager else []
    peers: list[Peer] = []
    drafter: DrafterProcess | None = None

    def add(arm: str, *command: str, threads: int = len(cores)) -> None:
        if arm in given.arms:
            peers.append(Peer(arm, [*command, *eager], cores=cores, threads=threads))

    try:
        add("ours off", sys.executable, "-m", "e2e.peers.own_peer", "off")
        add("ours adaptive", sys.executable, "-m", "e2e.peers.own_peer", "adaptive")
        add("hf plain", sys.executable, "-m", "e2e.peers.hf_peer", "plain")
        add("hf prompt-lookup", sys.executable, "-m", "e2e.peers.hf_peer", "prompt-lookup")
        add("vllm plain", vllm, "-m", "e2e.peers.vllm_peer", "plain")
        add("vllm ngram", vllm, "-m", "e2e.peers.vllm_peer", "ngram")
        if "vllm + drafter pool" in given.arms:
            drafter = DrafterProcess({"threads": len(cores) - half or 1})
            address = f"127.0.0.1:{drafter.port}"
            add("vllm + drafter pool", vllm, "-m", "e2e.peers.vllm_peer", "dspark", address,
                threads=half)  # fmt: skip
        yield peers
    finally:
        for peer in peers:
            peer.stop()
        if drafter is not None:
            drafter.stop()


ARMS = (
    "ours off", "ours adaptive", "hf plain", "hf prompt-lookup", "vllm plain", "vllm ngram",
    "vllm + drafter pool",
)  # fmt: skip


def _run(given: argparse.Namespace) -> list[Result]:
    texts = prompts(given.prompts)
    results = []
    with _peers(given) as peers:
        reference = peers[0].run(Cell(prompts=texts, max_tokens=given.tokens, concurrency=1))
        for peer in peers:
            peer.run(Cell(prompts=texts[:_WARM_UP], max_tokens=given.tokens, concurrency=_WARM_UP))
        for concurrency in given.concurrency:
            cell = Cell(prompts=texts, max_tokens=given.tokens, concurrency=concurrency)
            for repeat in range(given.repeats):
                order = peers if repeat % 2 == 0 else peers[::-1]
                for place, peer in enumerate(order):
                    answer = peer.run(cell)
                    results.append(_result(peer.arm, concurrency, repeat, place, answer, reference))
                    print(results[-1], file=sys.stderr)
    return results


def _result(
    arm: str, concurrency: int, repeat: int, place: int, answer: Answer, reference: Answer
) -> Result:
    counts = [len(tokens) for tokens in answer.outputs]
    speeds = [
        count / seconds for count, seconds in zip(counts, answer.latencies_s, strict=True) if count
    ]
    pairs = list(zip(answer.outputs, reference.outputs, strict=True))
    return Result(
        arm=arm,
        concurrency=concurrency,
        repeat=repeat,
        place=place,
        tokens_per_s=sum(counts) / answer.seconds,
        tokens_per_s_user=mean(speeds),
        accepted_length=answer.accepted_length,
        same_text=sum(list(a) == list(b) for a, b in pairs) / len(pairs),
    )


def _table(results: Sequence[Result]) -> str:
    lines = [
        f"{'requests':>8}  {'arm':<20} {'tokens/s':>9} {'spread':>13} {'/user':>7} "
        f"{'tau':>5} {'same text':>9}"
    ]
    for concurrency in sorted({result.concurrency for result in results}):
        for arm in dict.fromkeys(result.arm for result in results):
            own = [r for r in results if r.arm == arm and r.concurrency == concurrency]
            rates = [result.tokens_per_s for result in own]
            tau = own[0].accepted_length
            lines.append(
                f"{concurrency:>8}  {arm:<20} {median(rates):>9.0f} "
                f"{f'{min(rates):.0f}..{max(rates):.0f}':>13} "
                f"{median(r.tokens_per_s_user for r in own):>7.0f} "
                f"{'' if tau is None else f'{tau:.2f}':>5} "
                f"{min(r.same_text for r in own):>9.0%}"
            )
    return "\n".join(lines)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Parse, run, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m e2e.peers", description=__doc__)
    parser.add_argument("--prompts", type=int, default=40, help="how many packaged prompts")
    parser.add_argument("--tokens", type=int, default=96, help="most tokens of an answer")
    parser.add_argument("--concurrency", type=_numbers, default=[1, 8])
    parser.add_argument("--repeats", type=int, default=4, help="even: both orders alike")
    parser.add_argument("--cores", type=_numbers, default=sorted(os.sched_getaffinity(0)))
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS))
    parser.add_argument("--vllm", type=Path, default=_CACHE / "vllm-0.32.0", help="its environment")
    parser.add_argument("--eager", action="store_true", help="vLLM without torch.compile")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    unknown = [arm for arm in given.arms if arm not in ARMS]
    if unknown:
        parser.error(f"no arm {unknown[0]!r}: one of {', '.join(ARMS)}")
    results = _run(given)
    print(_table(results))
    if given.json is not None:
        given.json.write_text(json.dumps({"results": [asdict(result) for result in results]}))


if __name__ == "__main__":
    main()
