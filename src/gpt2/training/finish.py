"""The end of a run: the best weights judged in full precision, the curve, the card, the report, what to try next."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from gpt2.checkpoint.run_folder import RunFolder
from gpt2.data import Prepared
from gpt2.data.loader import deal
from gpt2.data.shards import TokenShards
from gpt2.evaluation.bits_per_byte import Score, score_documents
from gpt2.evaluation.examine import examine
from gpt2.evaluation.text import Judged
from gpt2.generation.sampling import Sampling
from gpt2.generation.text import generate_text
from gpt2.manifest import write_manifest
from gpt2.model import GPT2
from gpt2.model.ops.decode import forget_packed
from gpt2.model.pretrained import load_weights
from gpt2.model.weight_files import read_weights
from gpt2.report import draw_loss, record, text_curve, write_card, write_report
from gpt2.settings import TrainSettings
from gpt2.tokenizer import Tokenizer
from gpt2.training.distributed import Processes
from gpt2.training.inputs import spread
from gpt2.training.trainer import TrainerState

# Validation tokens judged at the end; `gpt2 evaluate` judges any number.
_FINAL_TOKENS = 300_000
_STORIES = 32  # `gpt2 evaluate` lets it write more
_SAMPLING = Sampling(temperature=0.8)


def validate(
    model: GPT2,
    shards: TokenShards,
    documents: Sequence[int],
    end_of_text: int,
    processes: Processes | None = None,
) -> Score:
    """Score some documents of the shards with the model as it is now; several processes divide them up."""
    texts = [shards.document(number) for number in documents]
    sizes = shards.document_bytes[list(documents)]
    if processes is None or processes.size == 1:
        return score_documents(model, texts, sizes, end_of_text)
    lengths = np.array([len(text) for text in texts])
    order = np.argsort(-lengths, kind="stable")
    mine = order[deal(lengths[order], processes.size) == processes.rank]
    nats = np.zeros(len(texts))
    if len(mine):
        nats[mine] = score_documents(model, [texts[i] for i in mine], sizes[mine], end_of_text).nats
    everyone = processes.gather_tensors(torch.from_numpy(nats).to(processes.device))
    return Score(torch.stack(everyone).sum(dim=0).cpu().numpy(), lengths, np.asarray(sizes, dtype=np.int64))


def sample_text(model: GPT2, tokenizer: Tokenizer, prompt: str, seed: int, max_new_tokens: int = 120) -> str:
    """A sample of the model's text, prompt included."""
    limit = max(1, min(max_new_tokens, model.config.context_length))
    (result,) = generate_text(model, tokenizer, [prompt], max_new_tokens=limit, sampling=_SAMPLING, seed=seed)
    forget_packed(model)  # the next training step makes them stale
    return prompt + result.text


def finish(
    settings: TrainSettings,
    folder: RunFolder,
    model: GPT2,
    tokenizer: Tokenizer,
    prepared: Prepared,
    state: TrainerState,
    say: Callable[[str], None],
    events: Sequence[str] = (),
    processes: Processes | None = None,
) -> Score:
    """Load the best weights, examine them in fp32, draw the curve, write card and report, and tell the user."""
    if processes is not None:
        processes.exchange("saved", None)
    load_weights(model, read_weights(folder.path))
    model.compute_dtype = None
    model.to(settings.run.device if settings.run.device != "auto" else "cpu").eval()
    valid = prepared.valid
    documents = spread(valid, _FINAL_TOKENS)
    judged = f"{len(documents):,} of {valid.num_documents:,} held-out documents"
    score = validate(model, valid, documents, tokenizer.eos_token_id, processes)
    if processes is not None and not processes.is_main:
        return score
    names = ", ".join(Path(text).name for text in settings.data.valid or settings.data.text) or "the bundled stories"
    texts = [tokenizer.decode(valid.document(number)[1:].tolist()) for number in documents]
    source = Judged(texts, f"{judged} of {names}")
    examination = examine(
        model, tokenizer, source, prepared.train, stories=_STORIES, seed=settings.run.seed, score=score
    )
    title = f"{model.num_parameters():,} parameters, {state.tokens:,} tokens: {score.bits_per_byte:.3f} bits per byte"
    draw_loss(folder.metrics, folder.curve, title)
    story = sample_text(model, tokenizer, settings.run.prompt, settings.run.seed, 250)
    facts = _facts(model, state, score, judged, events)
    happened = [*events, *([f"{state.skipped:,} updates were left out as not finite"] if state.skipped else [])]
    found = record(folder.evaluation, model, examination, happened)
    write_card(folder.card, folder.path.name, facts, story, "training/config.toml", found)
    write_report(folder)
    write_manifest(folder.path)
    curve = text_curve(folder.metrics)
    say(
        f"\n{curve}\n\n{story.strip()}\n\n"
        f"{folder.path}: {score.bits_per_byte:.4f} bits per byte, loss {score.loss:.4f}, "
        f"perplexity {score.perplexity:.2f} on {judged}\n"
        f"({state.step:,} steps, {state.tokens:,} tokens, {state.seconds:.0f} s"
        + (f", {state.skipped} updates skipped as not finite" if state.skipped else "")
        + f"; everything about it: {folder.report})\n\n"
        f'Try next:  gpt2 generate {folder.path} "Once upon a time"\n'
        f"           gpt2 evaluate {folder.path}\n"
        f"           gpt2 train your.txt --minutes 10"
    )
    return score


def _facts(model: GPT2, state: TrainerState, score: Score, judged: str, events: Sequence[str]) -> dict[str, str]:
    """The table of the model card."""
    facts = {
        "Parameters": f"{model.num_parameters():,}",
        "Shape": f"{model.config.num_layers} layers, d_model {model.config.d_model}, {model.config.num_heads} heads, "
        f"context {model.config.context_length}, vocabulary {model.config.vocab_size:,}",
        "Trained on": f"{state.tokens:,} tokens in {state.step:,} steps, {state.seconds / 60:.1f} minutes",
        "Bits per byte": f"{score.bits_per_byte:.4f} on {judged}",
        "Loss, perplexity": f"{score.loss:.4f} nats per token, {score.perplexity:.2f}",
    }
    if state.skipped:
        facts["Updates left out"] = f"{state.skipped:,}, as not finite"
    if events:
        facts["Divergences"] = "; ".join(events)
    return facts
