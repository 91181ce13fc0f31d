"""Write the table of attacks into docs/threat-model.md, from the records of `make attacks`.

python tools/attack_table.py RECORDS.jsonl
"""

from __future__ import annotations

import json
from pathlib import Path
import re
import sys


_PAGE = Path(__file__).parents[1] / "docs" / "threat-model.md"
_BEGIN, _END = "<!-- attacks: written by tools/attack_table.py -->", "<!-- end of attacks -->"


def main(records: Path) -> None:
    rows: dict[str, list[dict[str, str]]] = {}
    for line in records.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.setdefault(row["attack"], []).append(row)
    # One in several ways, or on several files, has a row for each.
    names = {attack.split(" ")[0] for attack in rows}
    count = f"{len(names)} attacks, {len(rows)} rows"
    lines = [f"{count}.", "", "| attack | tries to | defence off | defence on |"]
    lines.append("|---|---|---|---|")
    for attack, found in sorted(rows.items()):
        # One that ran in several boxes has a line of its own for each different end.
        ends = dict.fromkeys((row["undefended"], row["defended"]) for row in found)
        undefended = "; ".join(dict.fromkeys(end[0] for end in ends))
        defended = "; ".join(dict.fromkeys(end[1] for end in ends))
        cells = (attack, found[0]["tries"], undefended, defended)
        # Where a test had its files says nothing.
        plain = (re.sub(r"'/[^']*'", "…", cell).replace("|", "\\|") for cell in cells)
        lines.append("| " + " | ".join(plain) + " |")
    page = _PAGE.read_text(encoding="utf-8")
    before, rest = page.split(_BEGIN)
    after = rest.split(_END)[1]
    table = "\n".join(lines)
    _PAGE.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}", encoding="utf-8")
    print(f"{_PAGE}: {count}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
