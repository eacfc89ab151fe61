"""Ask every web address in the chapters and the READMEs whether it still answers.

python tools/check_links.py            (needs the internet; no other package)
python tools/check_links.py --list     (only lists them)
"""

import json
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = re.compile(r"https?://[^\s()<>\"'`\u3000-\uffef]+")
# These answer a person and turn a program away: 403 and 429 say that the page is there.
THERE = {403, 429}


def texts():
    """Yield (file, text) of all prose: Markdown files and Markdown cells."""
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("chapters/*.md")]):
        yield path, path.read_text(encoding="utf-8")
    for path in sorted(ROOT.glob("chapters/*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                yield path, "".join(cell["source"])


def addresses():
    """Return address -> names of the files it stands in, OWNER/REPO and the like left out."""
    found = {}
    for path, text in texts():
        for url in ADDRESS.findall(text):
            if "OWNER" not in url and "localhost" not in url:
                found.setdefault(url.rstrip(".,;:"), set()).add(path.relative_to(ROOT).as_posix())
    return found


def fault(url, tries=3):
    """Return what is wrong with an address, or None."""
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (link check)"})
    for left in reversed(range(tries)):
        try:
            with urllib.request.urlopen(request, timeout=30):
                return None
        except urllib.error.HTTPError as error:
            if error.code in THERE:
                return None
            told = str(error)
        except OSError as error:
            told = str(error)
        if left:
            time.sleep(5)
    return told


def main():
    found = addresses()
    if "--list" in sys.argv[1:]:
        print(*sorted(found), sep="\n")
        return
    faults = {url: told for url in sorted(found) if (told := fault(url))}
    for url, told in faults.items():
        print(f"{url}\n    {told}\n    in {', '.join(sorted(found[url]))}")
    print(f"{len(found)} addresses, {len(faults)} that do not answer")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
