"""A model by its folder or by its id on the Hub, as a folder on this machine."""

import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

from ..errors import UsageError, brief

FILES = ("*.json", "*.safetensors")


def fetch(model: str | os.PathLike, revision: str = "main", advice: str = "name a folder instead") -> Path:
    """The folder of a model; one on the Hub is downloaded, or taken from the cache where there is no network.

    Args:
        model: a folder, or `you/name` on the Hub. What looks like a path is never looked for there.
        revision: branch, tag or commit on the Hub.
        advice: what to do where the Hub cannot be reached.

    Raises:
        UsageError: when there is no such folder, no such model, or neither a network nor a copy in the cache.
    """
    path, name = Path(os.path.expanduser(model)), os.fspath(model)
    if path.is_dir():
        return path
    if path.exists():
        raise UsageError(f"no model in '{name}': expected a folder, got a file.")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1 or "\\" in name:
        raise UsageError(f"no model in '{name}': no such folder.")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except HFValidationError as error:
        raise UsageError(
            f"no model in '{name}': no such folder, and no name that a model on the Hub can have."
        ) from error
    except HfHubHTTPError as error:
        reason = " ".join(str(error.server_message or error).split())
        raise UsageError(f"no model '{name}' on the Hub, and no such folder: {reason}") from error
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        raise UsageError(
            f"cannot get '{name}': there is no such folder, and no way to the Hub nor a copy in the cache "
            f"({brief(error.__cause__ or error)}). Check the network, or {advice}."
        ) from error
