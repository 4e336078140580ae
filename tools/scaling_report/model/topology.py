"""What joins the GPUs: links, and how ranks are laid out over nodes. The links' data are in presets.py."""

from dataclasses import dataclass, replace

from lbtrain.errors import RecipeError

from .presets import USUAL_HEADROOM, Link


@dataclass(frozen=True, slots=True)
class Topology:
    """Nodes of `gpus_per_node` GPUs, `inside` between the GPUs of a node and `links` ports of `between` on
    each node.
    """

    gpus_per_node: int
    inside: Link
    between: Link
    links: int = 1
    boost_headroom: float = USUAL_HEADROOM  # of the GPUs

    def __post_init__(self) -> None:
        if self.gpus_per_node < 1 or self.links < 1:
            raise RecipeError(
                f"a node has at least one GPU and one network link, not {self.gpus_per_node} and {self.links}"
            )

    def layout(self, gpus: int) -> tuple[int, int]:
        """(GPUs used in a node, nodes); whole nodes only, once there is more than one."""
        if gpus <= self.gpus_per_node:
            return gpus, 1
        nodes, rest = divmod(gpus, self.gpus_per_node)
        if rest:
            raise RecipeError(
                f"{gpus} GPUs do not fill nodes of {self.gpus_per_node}: ask for {gpus - rest} or "
                f"{gpus - rest + self.gpus_per_node}"
            )
        return self.gpus_per_node, nodes

    def with_bandwidth(self, factor: float) -> "Topology":
        """The same cluster with `factor` times the bandwidth between nodes."""
        return replace(self, between=replace(self.between, bytes_per_s=self.between.bytes_per_s * factor))
