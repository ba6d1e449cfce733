"""The operator: one DSparkService becomes everything that serves it.

Path: ``handlers`` reads the cluster -> ``spec`` (typed, or an error that names the field) ->
``manifests`` (what should exist) -> ``rollout`` (the next step and its reason) -> ``hands``
writes -> ``status`` (conditions).  A VerificationPolicy goes by ``govern``: ``claims`` reads
manifests, ``verification`` decides, ``control`` asks the service's controller.

Never: a write to the cluster outside ``hands``; a clock, a network call or a file in ``spec``,
``manifests``, ``rollout``, ``drift``, ``claims``, ``verification`` or a status; an import of
``dspark`` beyond ``core`` and ``config``.
"""

GROUP = "serving.dspark.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
"""Of both custom resources."""
