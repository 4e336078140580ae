"""Data sets by name. `dataset_info` is what a plan needs to know, without the data at hand; `open_source`
reads the data itself, and `dataset_index` is what the data set says of itself.
"""

from lbtrain.data.index import DatasetIndex, SplitIndex
from lbtrain.data.loading import batches
from lbtrain.data.photos import PhotoSource
from lbtrain.data.registry import (
    DatasetInfo,
    check_pictures,
    dataset_index,
    dataset_info,
    index_rows,
    open_instances,
    open_source,
)
from lbtrain.data.sources import ArraySource, Source

__all__ = [
    "ArraySource",
    "DatasetIndex",
    "DatasetInfo",
    "PhotoSource",
    "Source",
    "SplitIndex",
    "batches",
    "check_pictures",
    "dataset_index",
    "dataset_info",
    "index_rows",
    "open_instances",
    "open_source",
]
