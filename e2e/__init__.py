"""Whole-system stories: real processes on this machine."""
