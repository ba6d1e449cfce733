import json

from dspark.bench.report import make_report
from dspark.bench.summary import summarise
from tests.bench.examples import at_speed


def test_the_report_is_json_with_one_result_for_each_arm_and_load() -> None:
    records = [
        at_speed(arm, speed, repeat=repeat)
        for repeat in range(2)
        for arm, speed in (("off", 100.0), ("adaptive", 150.0))
    ]
    report = make_report(summarise(records), run={"seed": 0})
    again = json.loads(json.dumps(report, allow_nan=False))
    off, adaptive = again["results"]
    assert (off["arm"], off["topology"], off["concurrency"]) == ("off", "disaggregated", 1)
    assert adaptive["tokens_per_s"] == 150.0
    assert adaptive["ratio_to_off"] == 1.5
    assert adaptive["ratio_to_off_spread"] == [1.5, 1.5]
    assert adaptive["accepted_length"] is None
    assert adaptive["differing_outputs"] == 0
    assert len(adaptive["repeats"]) == 2
    assert again["run"] == {"seed": 0}
