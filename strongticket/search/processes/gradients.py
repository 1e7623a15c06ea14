"""The mean of the gradients of all processes, added up while the backward pass still runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .group import Processes

_BUCKET_BYTES = 25 * 2**20  # what is worth a message: latency counts for little, and the first ones leave early


class MeanGradients:
    """Gives every parameter the mean of its gradients over all processes: call ``finish`` after a backward pass.

    What ``DistributedDataParallel`` does, with two things that a search needs. Buckets never change: there they do
    after the first step, so that a search that is resumed would add in another order than one that is not, and could
    end with another ticket. And a parameter that no process used in a step gets no gradient, as in one process, without
    a wait for the device in every step. Nothing is wrapped: network, masks and frozen weights stay as they are.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], processes: Processes) -> None:
        """``parameters`` are the same in all processes, in the same order."""
        self._buckets = [_Bucket(part, processes) for part in _parts(parameters)]
        self._next = 0
        self._hooks: list[RemovableHandle] = []
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                self._hooks.append(_after_gradient(parameter, partial(self._note, bucket)))

    def finish(self) -> None:
        """Wait until all gradients are means."""
        self._send(every=True)
        for bucket in self._buckets:
            bucket.take_back()
        self._next = 0

    def end(self) -> None:
        """Leave the parameters to themselves."""
        for hook in self._hooks:
            hook.remove()

    def _note(self, bucket: _Bucket, _: Tensor) -> None:
        bucket.missing -= 1
        self._send(every=False)

    def _send(self, *, every: bool) -> None:
        # In the order of buckets and no other, so that all processes send alike whatever is ready first.
        while self._next < len(self._buckets) and (every or not self._buckets[self._next].missing):
            self._buckets[self._next].send()
            self._next += 1


class _Bucket:
    """Gradients that are added up in one message, each followed in the end by how many processes have one."""

    def __init__(self, parameters: Sequence[nn.Parameter], processes: Processes) -> None:
        self.parameters, self._processes = parameters, processes
        self.missing = len(parameters)
        sizes = [parameter.numel() for parameter in parameters]
        like = parameters[0]
        self._sums = torch.zeros(sum(sizes) + len(sizes), dtype=like.dtype, device=like.device)
        *parts, self._used = torch.split(self._sums, [*sizes, len(sizes)])
        # In the memory format of the parameter, which its gradient has as well, so that copying is one pass.
        self._views = [_as_laid_out(part, parameter) for part, parameter in zip(parts, parameters, strict=True)]
        self._has_own = [False] * len(sizes)
        self._work: Any = None

    def send(self) -> None:
        """Begin to add up what there is; what has no gradient counts as zero."""
        with torch.no_grad():
            self._has_own = [parameter.grad is not None for parameter in self.parameters]
            for view, used, parameter in zip(self._views, self._used, self.parameters, strict=True):
                used.fill_(0.0 if parameter.grad is None else 1.0)
                if parameter.grad is None:
                    view.zero_()
                else:
                    torch.mul(parameter.grad, 1 / self._processes.count, out=view)
                parameter.grad = None  # its memory is of use to the gradients that are still to come
            self._work = dist.all_reduce(self._sums, group=self._processes.group(self._sums.device), async_op=True)

    def take_back(self) -> None:
        """Wait, and give every parameter its mean."""
        self._work.wait()
        self._work, self.missing = None, len(self.parameters)
        each = zip(self._views, self._used, self._has_own, self.parameters, strict=True)
        for view, used, has_own, parameter in each:
            if has_own or float(used):  # reading what the others have waits for the device, but only then
                parameter.grad = view


def _after_gradient(parameter: Any, call: Callable[[Tensor], None]) -> RemovableHandle:
    """Have ``call`` called whenever the gradient of a parameter is complete."""
    handle: RemovableHandle = parameter.register_post_accumulate_grad_hook(call)
    return handle


def _parts(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return the parameters in parts of one type and of about equal bytes, the last ones first, as gradients come."""
    parts: list[list[nn.Parameter]] = []
    room = 0
    for parameter in reversed(parameters):
        size = parameter.numel() * parameter.element_size()
        if not parts or size > room or parameter.dtype != parts[-1][0].dtype:
            parts.append([])
            room = _BUCKET_BYTES
        parts[-1].append(parameter)
        room -= size
    return parts


def _as_laid_out(values: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return a view of flat ``values`` with the shape and, if it is dense, the strides of ``parameter``."""
    strides = parameter.stride()
    order = sorted(range(parameter.dim()), key=lambda dim: (-strides[dim], -parameter.shape[dim]))
    view = values.view([parameter.shape[dim] for dim in order])
    return view.permute([order.index(dim) for dim in range(parameter.dim())])
