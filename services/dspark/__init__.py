"""Disaggregated serving of one language model with DSpark speculative decoding."""
