"""What should exist for a service: pure, and the same for the same spec.

Path: ``render.render`` -> one module for each family of objects.  Never: a look at the cluster,
or a decision about when something is applied (that is ``rollout``).
"""
