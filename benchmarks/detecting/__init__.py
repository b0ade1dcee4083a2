"""What `benchmarks/detection.py` measures, part by part: `plan`, `models`, `cell`, `tables`."""
