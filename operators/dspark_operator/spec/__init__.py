"""The spec of a DSparkService: typed, bounded, and the source of its CRD schema.

Path: the object's ``spec`` -> ``parse.parse_service`` -> ``service.ServiceSpec``.  The same
classes make the schema of the CRD (``dspark_operator.crd``), so the API server and the operator
refuse the same things.  Nothing here is silently ignored: an unknown key is an error.

The classes are pydantic models rather than dataclasses because this is input from outside.
"""
