import threading
import time

from dspark.local.line import Line


def test_what_is_put_in_comes_out_later_in_the_same_order() -> None:
    line, came, done = Line(0.02), [], threading.Event()
    began_s = time.monotonic()
    for number in range(20):
        line.put(lambda number=number: came.append(number))  # type: ignore[misc]
    line.put(done.set)
    assert done.wait(10.0)
    assert came == list(range(20))
    assert time.monotonic() - began_s >= 0.02
    line.close()


def test_a_closed_line_delivers_nothing_more() -> None:
    line, came = Line(30.0), []
    line.put(lambda: came.append(1))
    line.close()
    line.put(lambda: came.append(2))
    assert came == []
