"""`python -m bench` measures, and writes results.json and the README's table; `python -m bench render` only the table.

With BENCH_QUICK=1 it takes about three minutes in place of thirty, and leaves the two as they are.
"""

from __future__ import annotations

import json
import os
import sys

from bench.readme import RESULTS, write_section
from bench.report import report


def main(arguments: list[str]) -> int:
    if arguments == ["render"]:
        write_section(json.loads(RESULTS.read_text(encoding="utf-8")))
        return 0
    # Containers have to be told apart from those of the tests before the first of them is thought of.
    os.environ.setdefault("GUARDED_TEST_LABEL", "guarded-litellm-bench")
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
    from bench.campaign import run
    from bench.plan import FULL, QUICK

    quick = os.environ.get("BENCH_QUICK", "") not in ("", "0")
    results = run(QUICK if quick else FULL)
    print(report(results))
    if not quick:
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_section(results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
