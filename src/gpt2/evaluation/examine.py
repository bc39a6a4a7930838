"""A model's whole account on one text: bits per byte, baselines, stories, grammar, memorisation."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gpt2.data.shards import TokenShards
from gpt2.evaluation.baselines import Baselines, baselines, count, counted_score
from gpt2.evaluation.bits_per_byte import Score, begin_scoring
from gpt2.evaluation.bootstrap import Interval
from gpt2.evaluation.cores import Cores, usable_cores
from gpt2.evaluation.memorization import Memorization, memorization
from gpt2.evaluation.minimal_pairs import accuracy, make_pairs
from gpt2.evaluation.ngram import NGram
from gpt2.evaluation.stories import Figure, Vocabulary, story_figures, word_budget
from gpt2.evaluation.text import Judged
from gpt2.generation.sampling import Sampling
from gpt2.generation.text import generate_text
from gpt2.model import GPT2
from gpt2.tokenizer import Tokenizer

_LONGEST_STORY = 300  # tokens; TinyStories' are 200 to 250
_VOCABULARY_TOKENS = 500_000  # of training text, for which words are common


@dataclass(frozen=True)
class Sample:
    """A story that the model wrote."""

    text: str
    ended: bool


@dataclass(frozen=True)
class StoryQuality:
    """Figures of samples, and of held-out documents cut to the same number of tokens."""

    samples: list[Sample]
    temperature: float
    max_tokens: int
    model: dict[str, Figure]
    held_out: dict[str, Figure]
    """Both as `gpt2.evaluation.stories.FIGURES` explains."""
    grammar: dict[str, float]
    """Share of minimal pairs in which the model finds the real sentence likelier, per rule and over all."""
    grammar_bigram: dict[str, float]
    """The same of a bigram model."""
    pairs: int


@dataclass(frozen=True)
class Examination:
    """Everything that was found out about a model on one text."""

    source: str
    score: Score = field(repr=False)
    baselines: Baselines
    stories: StoryQuality | None
    memorization: Memorization | None

    @property
    def interval(self) -> Interval | None:
        """95 % interval of bits per byte, over documents."""
        return self.score.interval()

    def to_json(self) -> dict[str, Any]:
        """JSON values; the figures under the names that people know, samples left out."""
        score = self.score
        result: dict[str, Any] = {
            "text": self.source,
            "documents": len(score.nats),
            "bytes": int(score.num_bytes.sum()),
            "tokens": int(score.tokens.sum()),
            "loss": score.loss,
            "perplexity": score.perplexity,
            "bits_per_byte": score.bits_per_byte,
            "bits_per_byte_interval": self.interval,
            "baselines": self.baselines.bits_per_byte,
            "baselines_counted_on": self.baselines.counted_on,
        }
        if self.stories is not None:
            stories = asdict(self.stories)
            result["stories"] = {**stories, "samples": len(self.stories.samples)}
        if self.memorization is not None:
            result["memorization"] = {**asdict(self.memorization), "verdict": self.memorization.verdict}
        return result


def examine(
    model: GPT2,
    tokenizer: Tokenizer,
    judged: Judged,
    training: TokenShards | None,
    *,
    stories: int = 64,
    seed: int = 0,
    temperature: float = 0.8,
    score: Score | None = None,
) -> Examination:
    """Judge a model.

    Args:
        model: on any device, scored in its `compute_dtype`.
        tokenizer: its tokenizer.
        judged: documents that it has not learned from.
        training: the text that it has learned from, in ids of its tokenizer; None: unknown, then the baselines are
            counted on the judged text and nothing is said on memorisation.
        stories: samples to draw; 0: no stories, no memorisation.
        seed: of the samples.
        temperature: of the samples.
        score: of the documents, if they have been scored before.

    Raises:
        DataError: there are no documents.
    """
    documents, end = judged.encode(tokenizer), tokenizer.eos_token_id
    quality = recited = None
    with model.evaluating(), Cores(usable_cores(model), caller_works=stories > 0) as cores:
        scored = begin_scoring(cores, model, documents, judged.num_bytes, end) if score is None else lambda: score
        counted = cores.submit(_counted, judged.texts, documents, end, training, model.config.vocab_size)
        if stories > 0:
            limit = min(_LONGEST_STORY, model.config.context_length)
            grammar = _begin_grammar(cores, model, tokenizer, judged)
            samples = write_stories(model, tokenizer, stories, limit, seed, temperature)
            figures = _figures(tokenizer, samples, judged, training, limit)
            if training is not None:
                texts = [sample.text for sample in samples]
                recited = memorization(texts, judged.first(500).texts, training, tokenizer)
            cores.join_in()
            quality = StoryQuality(samples, temperature, limit, *figures, *grammar(counted.result()[0]))
        return Examination(judged.source, scored(), counted.result()[1], quality, recited)


def _counted(
    texts: Sequence[str], documents: Sequence[np.ndarray], end: int, training: TokenShards | None, vocab_size: int
) -> tuple[NGram | None, Baselines]:
    """Counts of the training text, where it is known, and the figures of models and programs without a network."""
    counts = count(training, vocab_size) if training is not None else None
    return counts, baselines(texts, documents, end, vocab_size, counts)


def write_stories(
    model: GPT2, tokenizer: Tokenizer, count: int, max_tokens: int, seed: int, temperature: float
) -> list[Sample]:
    """Stories that the model begins by itself, all at once."""
    sampling = Sampling(temperature=temperature)
    results = generate_text(model, tokenizer, [""] * count, max_new_tokens=max_tokens, sampling=sampling, seed=seed)
    return [Sample(result.text, result.finish_reason == "eos") for result in results]


def _figures(
    tokenizer: Tokenizer, samples: list[Sample], judged: Judged, training: TokenShards | None, limit: int
) -> tuple[dict[str, Figure], dict[str, Figure]]:
    """Of the samples, and of real documents cut to their length."""
    texts = [sample.text for sample in samples]
    real_ids = tokenizer.encode_batch(judged.first(max(len(samples), 200)).texts)
    real = [tokenizer.decode(ids[:limit]) for ids in real_ids]
    real_ended = [len(ids) < limit for ids in real_ids]  # with the closing <|endoftext|>
    vocabulary = None
    if training is not None:
        vocabulary = Vocabulary.of([tokenizer.decode(training.read(0, min(_VOCABULARY_TOKENS, training.num_tokens)))])
    budget = word_budget(texts, real)
    return (
        story_figures(texts, [sample.ended for sample in samples], vocabulary, budget),
        story_figures(real, real_ended, vocabulary, budget),
    )


_Grammar = tuple[dict[str, float], dict[str, float], int]


def _begin_grammar(
    cores: Cores, model: GPT2, tokenizer: Tokenizer, judged: Judged
) -> Callable[[NGram | None], _Grammar]:
    """Score minimal pairs as tasks for `cores`; a function of the counts of the training text that waits for them."""
    pairs = make_pairs(judged.texts)
    if not pairs:
        return lambda counts: ({}, {}, 0)
    sides = [Judged([getattr(pair, side) for pair in pairs], "") for side in ("good", "bad")]
    documents = [side.encode(tokenizer) for side in sides]
    end, size = tokenizer.eos_token_id, model.config.vocab_size
    scored = [begin_scoring(cores, model, ids, s.num_bytes, end) for ids, s in zip(documents, sides, strict=True)]

    def collect(counts: NGram | None) -> _Grammar:
        good, bad = (score().nats for score in scored)
        all_bytes = np.concatenate([side.num_bytes for side in sides]).tolist()
        both = counted_score([*documents[0], *documents[1]], all_bytes, end, size, counts, 2).nats
        half = len(pairs)
        return accuracy(pairs, good, bad), accuracy(pairs, both[:half], both[half:]), half

    return collect
