"""Training state on disk, so that a run that was cut off goes on as if it had not been."""

import errno
import itertools
import os
import pickle
from pathlib import Path

import torch

__all__ = ["load", "save"]


def save(path, settings, state):
    """Write `state` and the `settings` it belongs to into `path`, whole or not at all.

    Raises:
        OSError: the folder cannot be written to; the previous file is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside the target and renamed: a kill at any moment leaves the old file or the new.
    # What it may leave of the other has a fixed name, so that the next save takes its place.
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as file:
            torch.save({"settings": settings, "state": state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path, settings):
    """Return the state in `path`, or None when there is no such file.

    Raises:
        OSError: the file cannot be opened or read.
        ValueError: the file is no checkpoint, or one of other settings; the message names the
            first difference.
    """
    path = Path(path)
    if not path.exists():
        return None
    with path.open("rb") as file:
        try:
            content = dict(torch.load(file, map_location="cpu", weights_only=True))
            found, state = dict(content["settings"]), dict(content["state"])
        except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError, TypeError,
                ValueError, AttributeError) as error:  # fmt: skip
            # A lost network drive, say: the file may be good. (EINVAL: it is cut short.)
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            raise ValueError(
                f"checkpoint={str(path)!r} is not a checkpoint of train_ch6, or not all of one; "
                "delete the file or name another"
            ) from error
    for name in {**settings, **found}:
        if settings.get(name) != found.get(name):
            was, now = _first_difference(found.get(name), settings.get(name))
            raise ValueError(
                f"checkpoint={str(path)!r} belongs to another run: its {name} is {was!r}, this "
                f"run's is {now!r}; name another file, or delete it to start afresh"
            )
    return state


def _first_difference(was, now):
    """The first lines that differ, of two texts; other values as they are."""
    if isinstance(was, str) and isinstance(now, str):
        lines = itertools.zip_longest(was.splitlines(), now.splitlines(), fillvalue="nothing")
        return next(((old.strip(), new.strip()) for old, new in lines if old != new), (was, now))
    return was, now
