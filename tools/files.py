"""Reading and writing files: whole or not at all."""

import contextlib
import json
import os

import nbformat

from tools import notebooks


def write_whole(path, content):
    """Write text or bytes into a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode()
    part = path.with_name(f"{path.name}.part")
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path, content):
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def read_json(path):
    """The content of a JSON file, or None where there is no such file or it is none."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return json.loads(path.read_text("utf-8"))
    return None


def notebook_text(notebook):
    return nbformat.writes(notebook) + "\n"


def replace(text, name, write):
    """Put what `write` makes of the old text between the two markers of that name."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or end not in text.split(begin)[1]:
        raise notebooks.ChapterError(f"the page needs one {begin.strip()} and one {end} after it")
    before, rest = text.split(begin)
    old, after = rest.split(end, 1)
    return before + begin + write(old) + end + after


def write_changed(texts):
    """Write the texts, path -> text, where a file has another; return the paths of these."""
    changed = [path for path, text in texts.items() if text != path.read_text("utf-8")]
    for path in changed:
        write_whole(path, texts[path])
    return changed
