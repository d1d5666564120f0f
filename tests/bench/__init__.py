"""The benchmark: `python -m tests.bench` measures what docs/benchmarks.md describes."""
