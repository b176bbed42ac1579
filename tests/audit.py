"""Known vulnerabilities of the pinned dependencies, by pip-audit. Used by `make audit`.

    python tests/audit.py

Exits 1 for an advisory that is not accepted below. Where the advisory database cannot be reached it says
that nothing was checked and exits 0: a machine without network can still run `make check`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
PATIENCE_SECONDS = 180
ACCEPTED: dict[str, str] = {}
"""Advisory id -> why it does not matter here."""
UNREACHABLE = (
    "ConnectionError",
    "ServiceError",
    "Max retries",
    "timed out",
    "HTTPError",
    "NameResolution",
    "403 Client Error",
    "404 Client Error",
)


def main() -> int:
    """Run pip-audit over the pinned versions and print one line per open advisory."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = ["--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pip_audit", *command, "--format", "json", "--output", str(found)],
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            print(f"audit: the advisory database did not answer in {PATIENCE_SECONDS} s; nothing was checked")
            return 0
        if not found.exists():
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            if any(sign in done.stderr for sign in UNREACHABLE):
                print(f"audit: the advisory database cannot be reached; nothing was checked ({said[:200]})")
                return 0
            print(f"audit: pip-audit failed: {said}")
            return 1
        report = json.loads(found.read_text(encoding="utf-8"))["dependencies"]
    advisories = [(item, advisory) for item in report for advisory in item.get("vulns", ())]
    open_ones = [(item, advisory) for item, advisory in advisories if advisory["id"] not in ACCEPTED]
    for item, advisory in open_ones:
        fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
        print(f"audit: {item['name']} {item['version']}: {advisory['id']}, fixed in {fixed}")
    skipped = [item["name"] for item in report if "skip_reason" in item]
    if len(skipped) == len(report):
        print("audit: this package index has no advisories (none of the pinned packages is known); nothing was checked")
        return 0
    print(
        f"audit: {len(report) - len(skipped)} pinned packages, {len(open_ones)} open advisories, "
        f"{len(advisories) - len(open_ones)} accepted" + (f"; not known there: {', '.join(skipped)}" if skipped else "")
    )
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
