"""Switches the Hub clients to their cache if the Hub cannot be reached, instead of minutes of silent retries."""

import logging
import os
from pathlib import Path

import datasets.config
import huggingface_hub
from huggingface_hub import constants

_SECONDS = 5.0
_LOG = logging.getLogger(__name__)


def go_offline_if_unreachable(name: str) -> None:
    """Checks within 5 seconds whether the Hub can be reached, and sets the offline mode of this process if not.

    In offline mode, cached files are used, and a missing one is an error at once. A warning says so in one line.

    Args:
        name: a folder or Hub id; nothing is checked for a folder that exists.
    """
    if Path(name).exists() or constants.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception as error:  # the HTTP library of the client differs between its versions
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for processes that are started from here
        reason = " ".join(str(error).split()) or type(error).__name__
        _LOG.warning("the Hub %s cannot be reached (%s): only cached files are used", constants.ENDPOINT, reason)
