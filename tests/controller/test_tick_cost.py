import random
import time

import pytest

from dspark.config.controller import ControllerSettings
from dspark.controller.loop import Controller
from dspark.controller.store import MemoryStore
from dspark.wire.fleet import fleet_to_wire
from tests.fleet_examples import a_curve, a_replica, a_report

REPLICAS = 1000


@pytest.mark.slow
def test_a_tick_over_a_thousand_replicas_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed and not asserted: it is a property of the machine too."""
    draw = random.Random(1)
    controller = Controller(ControllerSettings(min_samples=32), MemoryStore())
    curve = a_curve(
        {n: 0.01 + 0.001 * n for n in (1, 2, 4, 8, 16, 32, 64, 128)},
        sessions=(1, 4, 16, 64), context_tokens=(64, 512),
    )  # fmt: skip
    for i in range(REPLICAS):
        controller.register(a_replica(f"v{i}", curve=curve), 0.0)
    costs_s = []
    for round_ in range(3):
        for i in range(REPLICAS):
            vector = tuple(sorted((draw.random() for _ in range(3)), reverse=True))
            controller.report(a_report(f"v{i}", active=8, survivals=[vector] * 2), float(round_))
        began_s = time.perf_counter()
        plan = controller.tick(2.5 * round_, unix_s=0.0)
        costs_s.append(time.perf_counter() - began_s)
    fleet = controller.fleet.value
    assert fleet is not None
    assert len(fleet.members) == REPLICAS
    assert len(plan.budgets(fleet.pools[0].name)) == 1
    began_s = time.perf_counter()
    fleet_to_wire(fleet)
    encode_s = time.perf_counter() - began_s
    with capsys.disabled():
        print(
            f"\ntick over {REPLICAS} replicas: {1000 * min(costs_s):.0f} ms at best, "
            f"{1000 * max(costs_s):.0f} ms at worst; a snapshot is encoded once, in "
            f"{1000 * encode_s:.0f} ms"
        )
