import socket

import pytest

from dspark.cli.stack.ports import choose_free, require_free


def test_a_port_in_use_is_named_with_its_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"gateway: port {port} on 127.0.0.1 .*; try --port"):
            require_free("127.0.0.1", port, what="gateway", remedy="try --port")


def test_a_chosen_port_is_free() -> None:
    port = choose_free("127.0.0.1")
    require_free("127.0.0.1", port, what="gateway", remedy="")


def test_a_host_of_another_machine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"on 192\.0\.2\.77 cannot be used"):
        require_free("192.0.2.77", 8000, what="gateway", remedy="")
