"""What each of many processes needs and sends, by formula: memory and traffic of DDP, FSDP2 and HSDP."""

from dataclasses import dataclass

from gpt2.config import GPT2Config
from gpt2.model.flops import count_parameters, training_memory

# OpenAI's four sizes: layers, width, heads.
SIZES = {"124M": (12, 768, 12), "355M": (24, 1024, 16), "774M": (36, 1280, 20), "1.5B": (48, 1600, 25)}

_TABLE_TOKENS = 8192


@dataclass(frozen=True)
class Footprint:
    """Of one process, in bytes."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    gathered: float
    """Whole weights and gradients that FSDP holds for a moment: of the outermost group and the blocks at work."""
    sent: float
    """Per step of one micro-batch."""

    @property
    def memory(self) -> float:
        """All but activations."""
        return self.weights + self.gradients + self.optimizer + self.average + self.gathered


def footprint(config: GPT2Config, kind: str, processes: int, per_machine: int, optimizer: str = "muon") -> Footprint:
    """What training needs besides activations; everything is kept in fp32.

    Rings are assumed, as NCCL and gloo make them: of n processes each sends (n - 1) / n of a tensor to gather or to
    add up its parts, twice that to do both.

    Args:
        config: the model.
        kind: "ddp", "fsdp" or "hsdp".
        processes: all of them.
        per_machine: those on one machine, among whom "hsdp" divides the model.
        optimizer: "muon" or "adamw".
    """
    d, layers, total = config.d_model, config.num_layers, count_parameters(config)
    matrices, block = 12 * d * d * layers, 12 * d * d + 13 * d
    outermost = total - layers * block
    kept = 2 * total if optimizer == "adamw" else matrices + 2 * (total - matrices)  # numbers the optimizer keeps
    shards = {"ddp": 1, "fsdp": processes, "hsdp": per_machine}[kind]
    replicas = processes // shards
    ring, across = (shards - 1) / shards, (replicas - 1) / replicas
    if kind == "ddp":
        gathered, sent = 0.0, 2 * across * 4 * total
        muon = across * 2 * matrices  # each hands its directions, in bfloat16, to all
    else:
        gathered = 4 * (2 * outermost + 3 * block)
        # Forward gathers all, backward the blocks again, then gradients are added up and divided.
        sent = ring * 4 * (3 * total - outermost) + 2 * across * 4 * total / shards
        muon = ring * 2 * 2 * matrices / shards  # rows to their owners and directions back
    sent += muon if optimizer == "muon" else 0.0
    return Footprint(4 * total / shards, 4 * total / shards, 4 * kept / shards, 4 * total / shards, gathered, sent)


def table() -> str:
    """The table of docs/scaling.md, as Markdown."""
    rows = [
        "| model | GPUs | way | state per GPU | gathered | activations | sent per step |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, (layers, width, heads) in SIZES.items():
        config = GPT2Config(50_304, 1024, width, layers, heads)
        activations = training_memory(config, _TABLE_TOKENS) - 16 * count_parameters(config)
        for processes in (8, 64):
            for kind in ("ddp", "fsdp", "hsdp")[: 2 if processes == 8 else 3]:
                need = footprint(config, kind, processes, 8)
                figures = (need.memory - need.gathered, need.gathered, activations, need.sent)
                cells = " | ".join(f"{figure / 1e9:.2f} GB" for figure in figures)
                rows.append(f"| {name} | {processes} | {kind} | {cells} |")
    return "\n".join(rows)
