"""Admission: which prefix of each session's drafts is verified in this step."""
