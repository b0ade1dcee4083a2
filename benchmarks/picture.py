"""The picture of the README: the report of the demo's backdoored model, in headless Chromium.

    make demo && .venv/bin/python benchmarks/picture.py

Needs `chromium` on the path.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORT, PICTURE = ROOT / "runs" / "demo" / "backdoored.html", ROOT / "docs" / "report.png"
SIZE = "1280,1215"
"""Pixels, width and height: verdict, triggers and the first figure."""


def main() -> None:
    if not REPORT.is_file():
        raise SystemExit(f"{REPORT} does not exist: run make demo first")
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={SIZE}"]
    subprocess.run(
        ["chromium", *options, f"--screenshot={PICTURE}", REPORT.as_uri()],
        check=True,
        capture_output=True,
    )
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
