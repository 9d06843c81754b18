"""From a name on the Hub or a folder on disk to a model in memory."""

from ..environment import check_endpoint

check_endpoint()  # before any module here imports huggingface_hub
