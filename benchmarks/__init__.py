"""What a step costs beyond the provider: `python -m benchmarks`, or `make bench`. See docs/benchmarks.md."""
