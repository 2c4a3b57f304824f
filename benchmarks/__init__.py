"""Side-by-side measurements against raw tools and peers: ``python -m benchmarks --help``."""
