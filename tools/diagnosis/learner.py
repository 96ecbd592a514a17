"""What one seed learns: networks, their average, optimiser and memories, and one step of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from configs.diagnosis import DiagnosisConfig
from tools.diagnosis.augment import normalise
from tools.diagnosis.classifier import VideoClassifier
from tools.diagnosis.comatch import MemoryBank, Projection, contrast, label_graph, smoothed
from tools.diagnosis.feeding import Views
from tools.diagnosis.frame_classifier import LITE, PACKAGE, Classifier, FrameClassifier
from tools.diagnosis.optimiser import build_optimiser, rate_factor, trainable
from tools.diagnosis.preparation import Split
from tools.diagnosis.pretrained import Imported, load_pretrained
from tools.diagnosis.pseudo_labels import (
    Alignment,
    PseudoLabels,
    fixmatch_loss,
    marginal,
    masked_loss,
    quality,
    soft_labels,
)
from tools.training.ema import Ema
from tools.training.gradients import guarded_step
from tools.training.rates import base_rates, set_rates
from tools.training.runtime import Runtime

CLASSES = 2


@dataclass
class Measured:
    """What a step tells: values to be averaged over steps, and `pseudo_labels.quality` sums."""

    values: dict[str, Tensor]
    pseudo: dict[str, Tensor]


class Learner:
    """The state of a seed's training.

    Built alike on every process, provided that torch's seed is.

    classifier  in training mode, with its float32 average `average`
    step        steps done, of `steps`
    imported    the published weights it began with, if any
    """

    def __init__(self, config: DiagnosisConfig, split: Split, runtime: Runtime) -> None:
        self.config, self.runtime = config, runtime
        train, device = config.train, runtime.device
        network, self.imported = build_classifier(config)
        self.classifier = network.to(device).train()
        self.projection: Projection | None = None
        self.bank: MemoryBank | None = None
        if config.method == "comatch":
            width = config.comatch.width
            self.projection = Projection(network.sizes.width, width).to(device)
            rows = config.comatch.memory_batches * (train.labelled_batch + train.unlabelled_batch)
            self.bank = MemoryBank(rows, width, CLASSES, device)
        self.average = Ema(
            {"classifier": self.classifier}, train.ema_decay, warmup=train.ema_warmup
        )
        self.optimiser = build_optimiser(self.classifier, self.projection, train)
        self.rates = base_rates(self.optimiser)
        labels = [video.label for video in split.labelled]
        self.steps = config.steps
        target = torch.full((CLASSES,), 1 / CLASSES)
        if train.alignment == "labelled":
            target = marginal(labels, CLASSES)
        self.alignment = Alignment(target.to(device), train.alignment_length)
        self.step = 0

    def ends_epoch(self) -> bool:
        """Whether the labelled videos have been gone through once more with the last step."""
        return self._epoch(self.step) > self._epoch(self.step - 1)

    def take(self, views: Views) -> Measured:
        """Learn from the views of one step.

        Raises:  FloatingPointError where the gradient is no number; no weight has changed by then
        """
        if self.config.train.alignment_anew and self.step and self.ends_epoch():
            self.alignment.forget()
        with self.runtime.autocast():
            loss, measured = self._loss(views)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._follow_gradient()
        self.average.update({"classifier": self.classifier}, self.step)
        self.step += 1
        return measured

    def rate(self) -> float:
        """The largest rate of the last step."""
        return max(float(group["lr"]) for group in self.optimiser.param_groups)

    def state(self) -> dict[str, Any]:
        """Plain values and tensors from which `load` goes on exactly."""
        return {
            "step": self.step,
            "classifier": self.classifier.state_dict(),
            "projection": self.projection.state_dict() if self.projection else None,
            "average": self.average.state(),
            "optimiser": self.optimiser.state_dict(),
            "alignment": self.alignment.state(),
            "bank": self.bank.state() if self.bank else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()` of the same settings."""
        self.step = int(state["step"])
        self.classifier.load_state_dict(state["classifier"])
        self.average.networks["classifier"].load_state_dict(state["average"]["classifier"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.alignment.load(state["alignment"])
        if self.projection is not None:
            self.projection.load_state_dict(state["projection"])
        if self.bank is not None:
            self.bank.load(state["bank"])

    def _epoch(self, step: int) -> int:
        return math.floor(step / self.config.epoch_steps + 1e-9)

    def _loss(self, views: Views) -> tuple[Tensor, Measured]:
        if self.config.method == "supervised":
            loss = self._labelled_loss(self.classifier(normalise(views["labelled"])), views)
            return loss, Measured({"loss": loss.detach(), "loss_labelled": loss.detach()}, {})
        if self.config.method == "comatch":
            parts, labels = self._comatch(views)
        else:
            parts, labels = self._fixmatch(views)
        weights = {
            "unlabelled": self.config.train.unlabelled_weight,
            "contrast": self.config.comatch.contrast_weight,
        }
        weighted = [weights.get(name, 1.0) * part for name, part in parts.items()]
        loss = torch.stack(weighted).sum()
        values = {f"loss_{name}": part.detach() for name, part in parts.items()}
        measured = Measured({"loss": loss.detach(), **values}, quality(labels, views["truth"]))
        if "contrast" in parts:  # of all processes together; their gradients will be averaged
            share = weights["contrast"] * parts["contrast"]
            loss = loss + (self.runtime.world_size - 1) * share
        return loss, measured

    def _labelled_loss(self, logits: Tensor, views: Views) -> Tensor:
        return F.cross_entropy(logits.float(), views["labels"])

    def _fixmatch(self, views: Views) -> tuple[dict[str, Tensor], PseudoLabels]:
        train = self.config.train
        count = len(views["labelled"])
        taught = views[train.loss_on]
        if train.loss_on == "strong":
            weak = self.classifier.head(self._believed_features(views["weak"])).float()
        logits = self.classifier(normalise(torch.cat([views["labelled"], taught]))).float()
        strong = logits[count:]
        if train.loss_on == "weak":
            weak = strong
        probabilities = self._aligned(weak.detach().softmax(dim=1))
        loss, labels = fixmatch_loss(
            weak, strong, train.threshold, probabilities=probabilities, loss_on=train.loss_on
        )
        labelled = self._labelled_loss(logits[:count], views)
        return {"labelled": labelled, "unlabelled": loss}, labels

    def _comatch(self, views: Views) -> tuple[dict[str, Tensor], PseudoLabels]:
        assert self.projection is not None
        assert self.bank is not None
        settings, count = self.config.comatch, len(views["labelled"])
        believed = self._believed_features(views["weak"])
        with torch.no_grad():
            probabilities = self._aligned(self.classifier.head(believed).float().softmax(dim=1))
            weak = self.projection(believed).float()
        smooth = smoothed(
            probabilities,
            weak,
            self.bank,
            own_share=settings.own_share,
            temperature=settings.temperature,
        )
        labels = soft_labels(smooth, self.config.train.threshold)
        seen = torch.cat([views["labelled"], views["strong"], views["other"]])
        features = self.classifier.features(normalise(seen))
        clips = len(views["strong"])
        logits = self.classifier.head(features[: count + clips]).float()
        embeddings = self.projection(features).float()
        of_labelled, first, second = embeddings.split([count, clips, clips])
        graph = label_graph(self._everywhere(smooth), settings.graph_threshold)
        contrasted = contrast(
            self._everywhere(first), self._everywhere(second), graph, settings.temperature
        )
        certain = F.one_hot(views["labels"], CLASSES).float()
        for rows, beliefs in ((weak, probabilities), (of_labelled, certain)):
            self.bank.add(self._everywhere(rows), self._everywhere(beliefs))
        parts = {
            "labelled": self._labelled_loss(logits[:count], views),
            "unlabelled": masked_loss(logits[count:], labels),
            "contrast": contrasted,
        }
        return parts, labels

    @torch.no_grad()
    def _believed_features(self, clips: Tensor) -> Tensor:
        """Of the network as it stands, no branch left out, without gradient."""
        self.classifier.eval()
        try:
            return self.classifier.features(normalise(clips))
        finally:
            self.classifier.train()

    def _aligned(self, probabilities: Tensor) -> Tensor:
        if self.config.train.alignment == "none":
            return probabilities
        mean = probabilities.mean(dim=0)
        self.runtime.average_([mean])
        return self.alignment.align(probabilities, mean)

    def _everywhere(self, rows: Tensor) -> Tensor:
        """The rows of all processes; gradients flow into those of this one."""
        if not self.runtime.is_distributed:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.runtime.world_size)]
        dist.all_gather(parts, rows.detach().contiguous())
        parts[self.runtime.rank] = rows
        return torch.cat(parts)

    def _follow_gradient(self) -> None:
        parameters = [p for p in trainable(self.optimiser) if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.runtime.is_distributed:
            together = torch.cat([gradient.flatten() for gradient in gradients])
            self.runtime.average_([together])
            parts = together.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        norm = nn.utils.get_total_norm(gradients)
        factor = rate_factor(self.step, self.steps, self.config.epoch_steps, self.config.train)
        set_rates(self.optimiser, self.rates, factor)
        guarded_step(self.optimiser, parameters, norm, self.config.train.clip_norm)
        if not bool(torch.isfinite(norm)):
            raise FloatingPointError(
                f"step {self.step}: the gradient is no finite number; lower train.learning_rate"
            )


def build_classifier(config: DiagnosisConfig) -> tuple[Classifier, Imported | None]:
    """A new network, with published weights where the settings name them.

    Raises:  FileNotFoundError, ValueError for sizes that do not fit together and weights that do
             not fit the network
    """
    if config.network.size == LITE:
        lite = FrameClassifier(
            frames=config.data.frames, image_size=config.data.size, weights=config.network.weights
        )
        found = lite.checksum
        return lite, Imported(lite.tensors, 0, found) if found else None
    network = VideoClassifier(
        config.network.size,
        frames=config.data.frames,
        image_size=config.data.size,
        drop_path=config.network.drop_path,
        checkpointing=config.network.checkpointing,
    )
    if config.network.weights is None:
        return network, None
    if config.network.weights == PACKAGE:
        raise ValueError(
            f"network.weights={PACKAGE} is for network.size={LITE}; name a file of weights"
        )
    return network, load_pretrained(network, Path(config.network.weights))
