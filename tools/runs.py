"""Run cells in a kernel: one run at a time in a folder, of code that a commit holds."""

import ast
import contextlib
import datetime
import json
import os
import subprocess

import filelock
import nbclient
import nbformat
from nbclient.util import run_sync

from tools import notebooks


@contextlib.contextmanager
def alone(path):
    """Hold a lock, which ends with this process, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path, timeout=0):
            yield
    except filelock.Timeout as error:
        raise notebooks.ChapterError(
            f"another process is at work in {path.parent}; wait for it, or name another folder"
        ) from error


# --- code -----------------------------------------------------------------------------------------


def git(*words):
    command = ["git", "-C", str(notebooks.ROOT), *words]
    return subprocess.check_output(command, text=True, encoding="utf-8")


def begun(name, code_of):
    """The commit whose code is about to run, and when; refuse where the code is not that commit's.

    `code_of` makes of a chapter's notebook what has to be the same in the commit.
    """
    path = notebooks.path(name).relative_to(notebooks.ROOT).as_posix()
    changed = git("status", "--porcelain", "--", "d2lmini").split()
    try:
        committed = nbformat.reads(git("show", f"HEAD:{path}"), as_version=4)
    except subprocess.CalledProcessError as error:
        raise notebooks.ChapterError(f"commit {path} before it is run") from error
    if changed or code_of(committed) != code_of(notebooks.read(name)):
        raise notebooks.ChapterError(
            f"uncommitted changes in {' '.join(changed[1::2]) or path}; commit them, so that the "
            "record can say which code ran"
        )
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"commit": git("rev-parse", "HEAD").strip(), "started": now}


# --- kernel ---------------------------------------------------------------------------------------


class Kernel(nbclient.NotebookClient):
    """A fresh kernel in the chapters' folder, with the helper of this checkout.

    Attributes:
        machine: what `kernel_hook.machine` says.
    """

    def __init__(self, notebook):
        resources = {"metadata": {"path": str(notebooks.ROOT / "chapters")}}
        super().__init__(
            notebook, timeout=None, kernel_name="python3", record_timing=False, resources=resources
        )

    def __enter__(self):
        # This checkout's helper stands before an installed one.
        path = [str(notebooks.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.setup = self.setup_kernel(env={**os.environ, "PYTHONPATH": os.pathsep.join(path)})
        self.setup.__enter__()
        self.machine = self.call("machine")
        return self

    def __exit__(self, *error):
        return self.setup.__exit__(*error)

    def output(self, outs, msg, display_id, cell_index):
        """Show what a cell prints as it prints it."""
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", flush=True)
        return super().output(outs, msg, display_id, cell_index)

    def call(self, function, *args):
        """What a function of `kernel_hook` returns for these arguments, in the kernel."""
        call = f"_json.dumps(_hook.{function}{args!r})"
        reply = run_sync(self.kc.execute_interactive)(
            "import json as _json, tools.kernel_hook as _hook",
            silent=True,
            store_history=False,
            user_expressions={"value": call},
        )["content"]
        result = reply.get("user_expressions", {}).get("value", reply)
        if result["status"] != "ok":
            raise notebooks.ChapterError(f"the kernel cannot be used: {result['evalue']}")
        return json.loads(ast.literal_eval(result["data"]["text/plain"]))

    def run(self, cell):
        """Run a cell of the notebook; its outputs are in it afterwards, pieces joined."""
        try:
            self.execute_cell(cell, self.nb.cells.index(cell))
        except nbclient.exceptions.CellExecutionError as error:
            raise notebooks.ChapterError(f"cell {cell.id} fails: {error}") from error
        joined = []
        for output in cell.outputs:  # a figure in between keeps its place
            if joined and output.output_type == "stream" and output.name == joined[-1].get("name"):
                joined[-1].text += output.text
            else:
                joined.append(output)
        cell.outputs = joined
