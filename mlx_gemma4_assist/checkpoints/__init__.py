"""From a name on the Hub or a folder on disk to a model in memory."""

from ..environment import mend_endpoint

mend_endpoint()  # before any module here imports huggingface_hub
