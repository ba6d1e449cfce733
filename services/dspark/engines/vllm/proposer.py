"""The class that ``--speculative-config`` names."""

import atexit
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from dspark.config.load import explain
from dspark.config.model import ModelSettings
from dspark.config.vllm import VllmSettings
from dspark.core.curve import Curve, curve_problem
from dspark.engines.vllm.client import DraftClient
from dspark.engines.vllm.hooks import install
from dspark.engines.vllm.runner import RunnerDrafts, TensorGroup
from dspark.engines.vllm.sampler import check_sampler
from dspark.engines.vllm.support import config_problem, version_problem
from dspark.model.pair import read_pair, read_projection
from dspark.model.serving import compatibility

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

KEY = "dspark"
"""Our part of ``--additional-config``."""


class DSparkProposer(RunnerDrafts):
    """Drafts by remote DSpark drafters; made by vLLM in each worker process."""

    def __init__(self, vllm_config: "VllmConfig") -> None:
        """Check everything that can be checked before the target is loaded.

        Raises:
            ValueError: One line: what is not supported or does not fit, and the way out.
        """
        import vllm
        from vllm.v1.worker.gpu_model_runner import GPUModelRunner

        _log_as_vllm_does()
        problem = version_problem(vllm.__version__)
        if problem is not None:
            raise ValueError(problem)
        settings = read_settings(vllm_config.additional_config)
        model = vllm_config.model_config
        identity = read_pair(model.model, settings.drafter)
        problem = config_problem(vllm_config, identity.block_size)
        if problem is not None:
            raise ValueError(problem)
        served = model.served_model_name
        agreed = compatibility(
            ModelSettings(
                name=settings.name or (served if isinstance(served, str) else served[0]),
                target=model.model,
                drafter=settings.drafter,
                rows_dtype=settings.rows_dtype,
            ),
            identity,
        )
        super().__init__(
            settings,
            identity,
            read_projection(settings.drafter, identity),
            num_speculative_tokens=vllm_config.speculative_config.num_speculative_tokens,
            max_model_len=model.max_model_len,
            connect=lambda post, on_budget: DraftClient(
                settings,
                name=f"vllm-{vllm_config.instance_id}",
                compatibility=agreed,
                post=post,
                on_budget=on_budget,
            ),
            curve=None if settings.curve is None else read_curve(settings.curve),
        )
        install(GPUModelRunner, RunnerDrafts)
        atexit.register(self.close)

    def attach(self, runner: "GPUModelRunner", group: TensorGroup | None = None) -> None:
        """See ``RunnerDrafts.attach``; the group is vLLM's own."""
        import vllm
        from vllm.distributed.parallel_state import get_tp_group

        if runner.device.type == "cpu":
            check_sampler(vllm.__version__)
        super().attach(runner, group or get_tp_group())


def read_settings(additional: object) -> VllmSettings:
    """Read our part of vLLM's ``additional_config``.

    Raises:
        ValueError: Naming the key, what is wrong and what would be right.
    """
    part = additional.get(KEY) if isinstance(additional, Mapping) else None
    example = json.dumps({KEY: {"drafter": "CHECKPOINT", "drafters": ["HOST:PORT"]}})
    if part is None:
        raise ValueError(f"the DSpark proposer needs its settings: --additional-config '{example}'")
    try:
        return VllmSettings.model_validate(part)
    except ValidationError as error:
        raise ValueError(f"--additional-config, {KEY}: {explain(error, VllmSettings)}") from None


def read_curve(path: Path) -> Curve:
    """Read a step curve.

    Raises:
        ValueError: The file is missing, or no curve to admit by.
    """
    try:
        curve = TypeAdapter(Curve).validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"curve {path}: {error.strerror}") from error
    except ValidationError as error:
        raise ValueError(
            f"curve {path}: {error.errors()[0]['msg']}; it has the form of dspark profile --json"
        ) from error
    problem = curve_problem(curve)
    if problem is not None:
        raise ValueError(f"curve {path} is {problem}")
    return curve


def _log_as_vllm_does() -> None:
    """Let our lines go where vLLM's go, in its form."""
    ours, theirs = logging.getLogger("dspark"), logging.getLogger("vllm")
    if theirs.handlers and not ours.handlers:
        ours.handlers = list(theirs.handlers)
        ours.setLevel(theirs.level)
        ours.propagate = False
