"""Test files for inner pytest runs: ``BENCH_TESTS`` tests, each with a fresh container of ``BENCH_IMAGE``."""
