"""Ray Serve and our own builder accept the applications that the operator writes."""

import pytest
import yaml

from tests.operator.cases import PROFILES, profile, ray_service


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, when it is imported
def test_serve_and_the_builder_take_every_application() -> None:
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import ServeDeploySchema

    from dspark.app import build_pool

    for name in PROFILES:
        config = yaml.safe_load(ray_service(profile(name))["spec"]["serveConfigV2"])
        ServeDeploySchema.model_validate(config)
        for application in config["applications"]:
            assert application["import_path"] == f"{build_pool.__module__}:{build_pool.__name__}"
            build_pool(application["args"])
            (deployment,) = application["deployments"]
            scaling = AutoscalingConfig(**deployment["autoscaling_config"])
            assert scaling.policy.policy_function == "dspark.app:FollowPlan"
            assert scaling.max_replicas >= scaling.min_replicas
            assert scaling.initial_replicas is None, "Serve goes back to it with every edit"
