"""Settings: one class per role, composed into one file; unknown keys are errors.

Every field has its meaning under it and a default that runs on a laptop.  Nothing is read from
environment variables but what other ecosystems define (OTEL_*, RAY_*).
"""
