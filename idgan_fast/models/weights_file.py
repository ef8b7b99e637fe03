"""Reading of files that torch.save wrote: weights only, with their checksums verified."""

import pickle
import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idgan_fast.errors import UserError, out_of_memory


class Damaged(UserError):
    """The file was read and is not what was once written."""


def read_weights(path: Path) -> Any:
    """Tensors and plain values of a file, on the CPU. Raises UserError, or Damaged where its content is wrong."""
    try:
        content = BytesIO(path.read_bytes())
    except OSError as error:
        raise UserError(f"checkpoint: cannot read {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise UserError(f"checkpoint: no memory to read {path}") from error
    try:
        if zipfile.is_zipfile(content):
            with zipfile.ZipFile(content) as archive:
                if any(entry.file_size != entry.compress_size for entry in archive.infolist()):
                    raise ValueError("an entry is not as large as it says")  # torch.save compresses nothing
                damaged = archive.testzip()  # torch.load does not look at the checksums
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
        content.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, beside our one line
            value = torch.load(content, map_location="cpu", weights_only=True)
        _require_held(value)
        return value
    except pickle.UnpicklingError as error:
        raise Damaged(f"checkpoint: {path} is damaged, or holds more than tensors and plain values") from error
    except Exception as error:  # a damaged file can make the unpickler raise anything
        memory = out_of_memory(error)
        if memory is not None:  # says nothing against the file
            raise UserError(f"checkpoint: no memory to read {path}: {memory}") from error
        reason = str(error).splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise Damaged(f"checkpoint: {path} is damaged or no checkpoint ({reason})") from error


def _require_held(value: Any) -> None:
    """Raise ValueError for a tensor that repeats few numbers as many: a network of its size may not fit in memory."""
    if isinstance(value, Tensor):
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"a tensor of {tuple(value.shape)} has {value.untyped_storage().nbytes()} bytes")
    elif isinstance(value, dict | list | tuple):
        for entry in value.values() if isinstance(value, dict) else value:
            _require_held(entry)
