"""The demo pair: a small target, its DSpark drafter, and held-out prompts, as package data."""
