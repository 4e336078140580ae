"""The mean loss over some batches as a function of all trainable parameters: values, gradients,
Hessian-vector products.

Everything in this package that walks the loss landscape asks one of these, so that batch-norm mode, precision
and the average over ranks are decided in one place. The model is left as it was found: parameters are moved
by substitution, never in place; buffers (running statistics) and training flags are put back.

Source of the product: Pearlmutter 1994, "Fast exact multiplication by the Hessian", in its
reverse-over-reverse form. Cost, in passes over the batches (forward 1, backward 2): a value 1, a gradient 3,
a product about 9, or about 6 with retained graphs. Memory: one batch's activations at a time, twice as many
during a product; retained graphs hold those of all batches at once. Tried and not used: forward-over-reverse
costs what a product with fresh graphs costs, several vectors in one vectorised call (is_grads_batched) more
than one after the other. Limits: the loss must be twice differentiable in torch; a batch norm whose ghost
batches span ranks is not (use `eval`, or whole ghost batches on a rank); parameters that ZeRO-3 has sharded
are rejected. Precision is that of the model, and vectors are float32: products of autocast models are rough,
and the weights of a model in half precision are not moved (ValueError).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

BatchNormMode = Literal["batch", "eval"]
Loss = Callable[[Callable[..., Any], Any], Tensor]
"""(model, batch) -> the mean loss over the batch. The model is only to be called: it may be a stand-in with
moved parameters.
"""


class Objective:
    """f(x): the mean of `loss` over `batches`, at the parameters that the model has now. Vectors are flat:
    [size], in the model's order.

    `batches` is gone through at every call: a list, or anything that starts anew with each `iter` (ValueError
    for an iterator, and where there is no batch); all batches weigh alike, so make them equally large.
    `batch_norm`: `batch` takes the statistics of each batch (the loss that training sees) and does not touch
    the running ones; `eval` uses the running ones. Everything else, dropout first, is in evaluation mode.
    `mean` averages a tensor over ranks (`Engine.mean`): then each rank brings its own batches, equally many,
    and every call is collective. `model` is the bare module, not its DDP or DeepSpeed wrapper. `keep_graphs`
    keeps the graph of the first gradient for all later products at the same parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Iterable[Any],
        *,
        batch_norm: BatchNormMode = "eval",
        mean: Callable[[Tensor], Tensor] = Tensor.detach,
        keep_graphs: bool = False,
    ):
        if iter(batches) is batches:
            raise ValueError("batches is an iterator, which ends after one call: make a list of it")
        self.model, self.loss, self.batches, self.mean = model, loss, batches, mean
        self.batch_norm = batch_norm
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        _check(model, self.parameters, batch_norm)
        self.device = next(iter(self.parameters.values())).device
        self.sizes = [p.numel() for p in self.parameters.values()]
        self.size = sum(self.sizes)
        self.keep_graphs = keep_graphs
        self._graphs: list[tuple[Tensor, ...]] = []

    def point(self) -> Tensor:
        """x: the parameters as one vector [size]."""
        return _flat(p.detach() for p in self.parameters.values())

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector [size] as the layers' parts, by name, in their shapes."""
        parts = vector.split(self.sizes)
        return {
            name: part.view(p.shape) for (name, p), part in zip(self.parameters.items(), parts, strict=True)
        }

    @torch.no_grad()
    def value(self, shift: Tensor | None = None) -> float:
        """f(x + shift)."""
        with eval_mode(self.model, self.batch_norm):
            model = self._moved({name: p.detach() for name, p in self.parameters.items()}, shift)
            losses = torch.stack([self.loss(model, batch).double() for batch in self._all_batches()])
        return float(self.mean(losses.mean()))

    def gradient(self, shift: Tensor | None = None) -> tuple[float, Tensor]:
        """f(x + shift) and its gradient [size]."""
        total, loss, count = (
            torch.zeros(self.size, device=self.device),
            torch.zeros((), dtype=torch.float64, device=self.device),
            0,
        )
        with eval_mode(self.model, self.batch_norm):
            model = self._moved(self.parameters, shift)
            for batch in self._all_batches():
                count += 1
                value = self.loss(model, batch)
                total += _flat(
                    torch.autograd.grad(
                        value, list(self.parameters.values()), allow_unused=True, materialize_grads=True
                    )
                )
                loss += value.detach().double()
        return float(self.mean(loss / count)), self.mean(total / count)

    def hessian_vector(self, vector: Tensor) -> Tensor:
        """H v at x, [size]."""
        total, count = torch.zeros(self.size, device=self.device), 0
        parts = list(self.split(vector.to(self.device)).values())
        for gradients in self._gradient_graphs():
            count += 1
            # A gradient that does not depend on the parameters (of a linear loss) has no graph and adds
            # nothing.
            pairs = [(g, v) for g, v in zip(gradients, parts, strict=True) if g.requires_grad]
            total += _flat(
                torch.autograd.grad(
                    [g for g, _ in pairs],
                    list(self.parameters.values()),
                    [v for _, v in pairs],
                    retain_graph=self.keep_graphs,
                    allow_unused=True,
                    materialize_grads=True,
                )
            )
        return self.mean(total / count)

    def _all_batches(self) -> Iterator[Any]:
        empty = True
        for batch in self.batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("batches holds no batch: there is no loss to average")

    def _gradient_graphs(self) -> Iterator[tuple[Tensor, ...]]:
        """The gradient of every batch, differentiable itself."""
        if self._graphs:
            yield from self._graphs
            return
        for batch in self._all_batches():
            # Fused attention has no second derivative.
            with eval_mode(self.model, self.batch_norm), sdpa_kernel(SDPBackend.MATH):
                loss = self.loss(self.model, batch)
                graph = torch.autograd.grad(
                    loss,
                    list(self.parameters.values()),
                    create_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            if self.keep_graphs:
                self._graphs.append(graph)
            yield graph

    def _moved(self, parameters: dict[str, Any], shift: Tensor | None) -> Callable[..., Any]:
        if shift is None:
            return self.model
        for name, p in self.parameters.items():
            if p.dtype in (torch.float16, torch.bfloat16):
                raise ValueError(
                    f"{name} is in {p.dtype}, which rounds small shifts of the weights away: measure "
                    "model.float() with batches in float32"
                )
        moved = {name: parameters[name] + part for name, part in self.split(shift.to(self.device)).items()}
        return lambda *args, **kwargs: functional_call(self.model, moved, args, kwargs)


def random_vector(size: int, *, seed: int, device: torch.device, signs: bool = False) -> Tensor:
    """A standard normal vector [size], or one of random signs (Rademacher); the same on every rank and every
    kind of device.
    """
    generator = torch.Generator().manual_seed(seed)
    if signs:
        return torch.randint(0, 2, (size,), generator=generator).mul_(2).sub_(1).to(torch.float32).to(device)
    return torch.randn(size, generator=generator).to(device)


@contextlib.contextmanager
def eval_mode(model: nn.Module, batch_norm: BatchNormMode) -> Iterator[None]:
    """The model as a plain function of its parameters: evaluation mode, batch norm as told; afterwards
    everything is put back.
    """
    flags = {module: module.training for module in model.modules()}
    model.eval()
    for norm in _batch_norms(model):
        norm.train(batch_norm == "batch")
    try:
        with preserve_state(model):
            yield
    finally:
        for module, flag in flags.items():
            module.training = flag


@contextlib.contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """What passes through the model in here leaves no trace in its batch statistics."""
    norms = _batch_norms(model)
    # The layers get copies to write on. Writing the old values back would do too, but autograd would see
    # saved tensors change.
    originals = {norm: (dict(norm._buffers), getattr(norm, "ghosts_seen", None)) for norm in norms}
    for norm in norms:
        norm._buffers.update(
            {name: None if buffer is None else buffer.clone() for name, buffer in norm._buffers.items()}
        )
    try:
        yield
    finally:
        for norm, (buffers, ghosts_seen) in originals.items():
            norm._buffers.update(buffers)
            if ghosts_seen is not None:
                norm.ghosts_seen = ghosts_seen


def _batch_norms(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def _check(model: nn.Module, parameters: dict[str, nn.Parameter], batch_norm: BatchNormMode) -> None:
    if not parameters:
        raise ValueError(
            "the model has no trainable parameter: there is no landscape to walk. Set requires_grad_(True) "
            "on some of them"
        )
    split = [name for name, p in parameters.items() if hasattr(p, "ds_id")]
    if split:
        raise ValueError(
            f"{split[0]} is sharded over ranks by ZeRO-3, and whole parameters are needed: load a checkpoint "
            "into a plain model"
        )
    if batch_norm == "batch" and any(
        getattr(norm, "group", None) is not None for norm in _batch_norms(model)
    ):
        raise ValueError(
            "a batch norm takes its statistics over several ranks, which cannot be differentiated twice: "
            "use batch_norm='eval', or micro-batches of at least bn_batch_size images"
        )


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
