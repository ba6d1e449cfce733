"""All processes over mutual TLS, and what a replacement of every certificate does to a stream."""

from pathlib import Path

from dspark.telemetry import metrics
from dspark.wire.v1.common_pb2 import Sampling
from tests.model import tiny
from tests.rpc.pki import Pki, an_authority
from tests.system.fleet import system

GREEDY = Sampling()


def remote_prompts() -> float:
    labels = {"decision_type": "remote"}
    return metrics.REGISTRY.get_sample_value("dspark_disagg_decisions_total", labels) or 0.0


def prompts_given_up() -> float:
    labels = {"decision_type": "retried_local"}
    return metrics.REGISTRY.get_sample_value("dspark_disagg_decisions_total", labels) or 0.0


async def test_links_that_begin_after_a_replacement_of_everything_show_the_new_certificates(
    tmp_path: Path,
) -> None:
    pki = Pki(tmp_path / "tls")
    async with system(tmp_path / "pair", pki.settings()) as it:
        await it.up_verifier()
        await it.up_drafter()
        await it.up_prefill()
        await it.drafters_connected(1)
        await it.until(lambda: it.load("prefill-1") is not None)
        given_up, remote = prompts_given_up(), remote_prompts()
        first = await it.generate(tiny.prompt(30, seed=1), 30, GREEDY)
        assert first.stats.drafted_steps > 0

        def replace_everything() -> None:
            pki.authority = an_authority("next")
            pki.trust(pki.authority)
            pki.renew()

        again = await it.generate(
            tiny.prompt(30, seed=1), 30, GREEDY, speculate=False, at={5: replace_everything}
        )
        assert again.tokens == first.tokens
        # The drafter is new to the verifier; prompts go over a channel that is opened anew.
        await it.down("drafter-1")
        await it.drafters_connected(0)
        await it.up_drafter("drafter-2")
        await it.drafters_connected(1)
        last = await it.generate(tiny.prompt(30, seed=2), 30, GREEDY)
        assert last.stats.drafted_steps > 0
        assert remote_prompts() >= remote + 2
        assert prompts_given_up() == given_up
