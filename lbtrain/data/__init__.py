"""Data sets by name. `facts` is what a plan needs to know, without the data at hand; `open_source` reads the
data itself.
"""

from lbtrain.data.loading import batches
from lbtrain.data.photos import PhotoSource
from lbtrain.data.registry import DatasetInfo, dataset_info, open_instances, open_source
from lbtrain.data.sources import ArraySource, Source

__all__ = [
    "ArraySource",
    "DatasetInfo",
    "PhotoSource",
    "Source",
    "batches",
    "dataset_info",
    "open_instances",
    "open_source",
]
