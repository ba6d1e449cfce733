"""``python -m dspark.cli``: the same as ``dspark``."""

from dspark.cli.main import main

main()
