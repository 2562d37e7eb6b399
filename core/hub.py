"""Weights in the Hugging Face hub and its local cache; a hub that can't be reached costs five seconds, once."""

import logging
from pathlib import Path

from core.answers import answer_within

PATIENCE_S = 4.5  # an unreachable hub may cost 5 seconds in all; the client's own retries would take minutes
FILE_NAME = "model.safetensors"

_logger = logging.getLogger(__name__)
_unreachable: dict[str, str] = {}  # endpoint → reason, remembered because each silence costs PATIENCE_S


class HubError(Exception):
    """The hub said that it has a file and then failed to deliver it."""


def cached_file(repo: str) -> Path | None:
    """The weights of a repository in the local cache, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(repo, FILE_NAME)
    return Path(file) if isinstance(file, str) else None


def download(repo: str) -> Path:
    """Fetches the weights of a repository into the local cache, with a progress bar.

    Raises:
        HubError: The download failed.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, FILE_NAME))
    # The transport below huggingface_hub (requests, httpx, …) and its exceptions change with its version.
    except Exception as error:
        raise HubError(str(error)) from error


def why_unreachable() -> str | None:
    """Why the hub is out of reach, as far as this process has asked; None where it isn't."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "switched off by HF_HUB_OFFLINE"
    return _unreachable.get(constants.ENDPOINT)


def has_weights(repo: str) -> bool:
    """Asks the hub whether a repository has weights, for no longer than `PATIENCE_S`.

    ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, tokens and proxies count as they do for the download.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    if why_unreachable() is not None:
        return False
    endpoint = constants.ENDPOINT

    def ask() -> bool:
        try:
            get_hf_file_metadata(hf_hub_url(repo, FILE_NAME), timeout=PATIENCE_S)
        except HfHubHTTPError as error:
            _logger.info("the hub offers no %s: %s", repo, error)
            return False
        return True

    try:
        return answer_within(PATIENCE_S, ask)
    # As in `download`; whatever else is raised means that the hub was not reached.
    except Exception as error:
        _unreachable[endpoint] = f"{endpoint} can't be reached: {str(error) or type(error).__name__}"
        _logger.info("%s", _unreachable[endpoint])
        return False
