"""vLLM on this machine's CPU as the verifier, with our real drafter in a process of its own.

Runs in an environment of vLLM's (``make e2e-vllm``); the drafter, and our own engine for
comparison, run in this repository's.
"""
