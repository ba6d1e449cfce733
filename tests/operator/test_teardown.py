"""Teardown: the gateway first, the engines next, and never for ever."""

from dataclasses import replace

from dspark_operator.teardown import Left, Stop, next_stop

FULL = Left(
    gateway=True,
    gateway_pods=2,
    ray_service=True,
    ray_service_ending=False,
    engine_pods=3,
    waited_s=1.0,
    patience_s=100.0,
)


def test_a_service_stops_in_the_order_that_cuts_no_stream() -> None:
    left, done = FULL, []
    for _ in range(10):
        action, _, message = next_stop(left)
        done.append(action)
        assert message
        match action:
            case Stop.GATEWAY:
                left = replace(left, gateway=False)
            case Stop.ENGINES:
                left = replace(left, ray_service_ending=True)
            case Stop.WAIT if left.gateway_pods:
                left = replace(left, gateway_pods=0)
            case Stop.WAIT:
                left = replace(left, ray_service=False, engine_pods=0)
            case Stop.DONE:
                break
    assert done == [Stop.GATEWAY, Stop.WAIT, Stop.ENGINES, Stop.WAIT, Stop.DONE]


def test_engines_are_not_touched_while_a_gateway_pod_lives() -> None:
    assert next_stop(replace(FULL, gateway=False))[0] is Stop.WAIT


def test_patience_ends() -> None:
    action, reason, _ = next_stop(replace(FULL, waited_s=101.0))
    assert (action, reason) == (Stop.DONE, "DrainTimedOut")


def test_a_service_that_never_came_to_life_goes_at_once() -> None:
    nothing = replace(FULL, gateway=False, gateway_pods=0, ray_service=False, engine_pods=0)
    assert next_stop(nothing)[1] == "Drained"
