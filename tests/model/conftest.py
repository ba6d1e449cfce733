import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> None:
    # Replicas run on one thread; and two test workers on two cores are faster so.
    torch.set_num_threads(1)
