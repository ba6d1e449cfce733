from dspark.cli.stack.readiness import pool_counts, start_problem
from dspark.core.fleet import Fleet, Pool, Role
from dspark.core.ids import PoolName, Term

TRACEBACK = """Failed to update the deployments ['drafter'].
  File "drafter_config.py", line 80, in __post_init__
{line}
"""


def states(line: str, state: str = "DEPLOYING") -> dict[str, dict[str, str]]:
    return {"drafter": {"state": state, "message": TRACEBACK.format(line=line)}}


def test_a_callers_mistake_ends_the_start_at_once() -> None:
    problem = start_problem(states("ValueError: block size 9 is not 7: use --set ..."))
    assert problem == "drafter: block size 9 is not 7: use --set ..."


def test_bad_luck_is_waited_out_until_ray_serve_gives_up() -> None:
    line = "ray.exceptions.ActorDiedError: The actor died"
    assert start_problem(states(line)) is None
    assert start_problem(states(line, "DEPLOY_FAILED")) == "drafter: ActorDiedError: The actor died"


def test_a_failure_without_a_traceback_still_says_something() -> None:
    gone = {"prefill": {"state": "DEPLOY_FAILED", "message": "no node fits"}}
    assert start_problem(gone) == "prefill: no node fits"


def test_nothing_is_wrong_while_pools_deploy() -> None:
    assert start_problem({"drafter": {"state": "DEPLOYING", "message": ""}}) is None


def test_pools_are_counted_against_what_is_wanted() -> None:
    pool = Pool(name=PoolName("drafter"), role=Role.DRAFTER, wanted_replicas=2, ready_replicas=1)
    fleet = Fleet(term=Term(1), version=1, pools=(pool,))
    assert pool_counts(fleet, {"drafter": 2, "prefill": 1}) == {
        "drafter": (1, 2),
        "prefill": (0, 1),
    }
    assert pool_counts(None, {"drafter": 2}) == {"drafter": (0, 2)}
