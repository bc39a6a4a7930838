"""What the page may ask of the model, within bounds, and how it is answered from `gpt2.inspection`."""

import base64
import copy
from collections import OrderedDict
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gpt2.checkpoint import RunFolder
from gpt2.checkpoint.snapshots import Snapshot, list_snapshots
from gpt2.errors import ConfigError, DataError
from gpt2.evaluation.text import corpus_of, held_out
from gpt2.inspection import Intervention, Run, run
from gpt2.inspection.interventions import Site, ablate
from gpt2.inspection.means import mean_by_position
from gpt2.inspection.names import long_name
from gpt2.inspection.reference import documents
from gpt2.inspection.whole import Whole
from gpt2.model import GPT2
from gpt2.serving.served import ServedModel

_RUNS = 6
_BYTES = 200e6
"""Weights of snapshots that are kept loaded."""
_TEXTS = 32

_PART = r"^(\d{1,3}\.\d{1,3}|(mlp|attn|token)\.\d{1,5}|positions)$"
Token = Annotated[str, Field(max_length=200)]
Part = Annotated[str, Field(max_length=24, pattern=_PART)]


class Ask(BaseModel):
    """A question about a text. A view takes what it needs and leaves the rest."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field("", max_length=20_000)
    snapshot: int | None = Field(None, ge=0)
    """The step of a snapshot of the run; None: the served weights."""
    layer: int | None = Field(None, ge=0, le=999)
    head: int | None = Field(None, ge=0, le=999)
    position: int = Field(-1, ge=-100_000, le=100_000)
    k: int | None = Field(None, ge=1, le=200)
    target: Token | int | None = None
    against: Token | int | None = None
    unit: Literal["component", "head", "neuron"] | None = None
    off: list[Part] = Field([], max_length=200)
    """Parts taken out: "1.2" is head 2 of layer 1; "mlp.0", "attn.3", "token.5" (what stands there), "positions"."""
    how: Literal["zero", "mean"] = "zero"


def snapshots_of(served: ServedModel) -> list[Snapshot]:
    """Of the run, oldest first; looked up anew, for a run may go on."""
    return list_snapshots(RunFolder(served.folder).snapshots) if served.folder else []


class Looker:
    """Answers questions; one at a time.

    Args:
        served: the model. Its weights are only read; snapshots go into copies.
    """

    def __init__(self, served: ServedModel) -> None:
        self.served = served
        self._models: OrderedDict[int, GPT2] = OrderedDict()
        self._runs: OrderedDict[tuple[Any, ...], Run] = OrderedDict()
        self._means: dict[int | None, dict[str, Tensor]] = {}
        self._texts: list[str] | None = None
        self._whole: tuple[int | None, Whole] | None = None

    def model(self, step: int | None) -> GPT2:
        """The served model, or a copy of it with the weights of a snapshot.

        Raises:
            ConfigError: there is no such snapshot.
            CheckpointError: it is damaged.
        """
        if step is None:
            return self.served.model
        if step not in self._models:
            found = next((snapshot for snapshot in snapshots_of(self.served) if snapshot.step == step), None)
            if found is None:
                raise ConfigError(f"the run has no snapshot of step {step:,}")
            model = copy.deepcopy(self.served.model)
            found.load_into(model)
            self._models[step] = model
            size = sum(p.numel() * p.element_size() for p in model.parameters())
            while len(self._models) > max(2, int(_BYTES / size)):
                self._models.popitem(last=False)
        self._models.move_to_end(step)
        return self._models[step]

    def run(self, ask: Ask) -> Run:
        """The text, run; the last few are remembered, so that another view of the same text costs nothing.

        Raises:
            UserError: as `gpt2.inspection.run`.
        """
        key = (ask.text, ask.snapshot, ask.how, *sorted(ask.off))
        if key not in self._runs:
            model = self.model(ask.snapshot)
            self._runs[key] = run(model, self.served.tokenizer, ask.text, do=self.taken_out(ask))
            while len(self._runs) > _RUNS:
                self._runs.popitem(last=False)
        self._runs.move_to_end(key)
        return self._runs[key]

    def taken_out(self, ask: Ask) -> list[Intervention]:
        """The parts that are off, as interventions."""
        return [self._part(name, ask) for name in dict.fromkeys(ask.off)]

    def texts(self) -> list[str] | None:
        """What the run held out, a few documents; None: bundled stories, for there is no run or its text is gone."""
        if self._texts is None:
            try:
                corpus = corpus_of(self.served.folder, progress=False) if self.served.folder else None
                self._texts = held_out(str(self.served.folder), corpus).first(_TEXTS).texts if corpus else []
            except DataError:
                self._texts = []
        return self._texts or None

    def whole(self, step: int | None) -> Whole:
        """The model as that from which effects are measured; that of the last moment asked for is kept."""
        if self._whole is None or self._whole[0] != step:
            self._whole = step, Whole(self.model(step), self.served.tokenizer, self.texts())
        return self._whole[1]

    def _part(self, name: str, ask: Ask) -> Intervention:
        if name == "positions":
            return ablate("pos_embed")
        first, _, second = name.partition(".")
        if first == "token":
            length = 1 + len(self.served.tokenizer.encode(ask.text))
            if int(second) >= length:
                raise ConfigError(f"the text has positions 0 to {length - 1}, not {second}")
            site, plain = Site(long_name("embed"), None, int(second)), ablate("embed", position=int(second))
        elif first == "mlp":
            site, plain = Site(long_name(("mlp_out", int(second)))), ablate(mlp=int(second))
        elif first == "attn":
            site, plain = Site(long_name(("attn_out", int(second)))), ablate(attn=int(second))
        else:
            site, plain = Site(long_name(("z", int(first))), int(second)), ablate(head=(int(first), int(second)))
        if ask.how == "zero":
            return plain
        means = self._mean(ask.snapshot)
        if site.name not in means:
            raise ConfigError(f"the model has no {site.name}")
        description = plain.description.replace("(zero)", "(mean)")

        def bind(model: GPT2, tokenizer: object, time: int) -> Any:
            stand_in = means[site.name][:, :time]
            return lambda value: site.replaced(value, stand_in[site.index()])

        return Intervention(site, description, bind)

    def _mean(self, step: int | None) -> dict[str, Tensor]:
        """Means over reference texts of all that can be taken out, in one go: each switch then costs nothing."""
        if step not in self._means:
            model = self.model(step)
            rows = documents(model, self.served.tokenizer)
            layers = range(model.config.num_layers)
            names = [long_name("embed")]
            names += [long_name((short, layer)) for layer in layers for short in ("z", "attn_out", "mlp_out")]
            self._means.clear()
            self._means[step] = mean_by_position(model, rows, model.config.context_length, names)
        return self._means[step]


def packed(values: Tensor) -> str:
    """Little-endian bytes of a tensor, in base64: exact, and a quarter of the digits' size."""
    return base64.b64encode(values.detach().cpu().contiguous().numpy().tobytes()).decode()


def tiles(patterns: Tensor, most: int = 64) -> Tensor:
    """Patterns (L, H, T, T) as bytes to paint, each at most 64 x 64: the largest of a block, so thin lines stay."""
    time = patterns.shape[-1]
    cell = -(-time // most)
    small = -(-time // cell)
    wide = torch.zeros(*patterns.shape[:2], small * cell, small * cell)
    wide[..., :time, :time] = patterns.float().cpu()
    largest = wide.view(*patterns.shape[:2], small, cell, small, cell).amax(dim=(3, 5))
    return (largest * 255).round().to(torch.uint8)
