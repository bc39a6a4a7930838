# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
# ruff: noqa: D100, D102, D103
# The text of GPT2.ipynb, cell by cell. `python notebooks/build.py` executes it and writes the notebook.

# %% [markdown]
# # GPT-2 from scratch: a course
#
# You will build a GPT-2 out of tensors, train it to tell stories, and then look inside until you can say *why* it
# wrote what it wrote. Nothing is taken ready-made: layers, loss, optimizers and sampler are written here, in short
# cells, from `torch.Tensor`, `nn.Module`, `nn.Parameter` and `nn.ModuleList` alone. PyTorch gives us arrays,
# gradients and matrix products.
#
# Every section goes the same way: **predict, run, see, check**. First a question; guess before you run the cell, for
# a wrong guess teaches most. Then a small experiment and one picture. Under it stands a sentence with a ✓. Such a
# sentence is not prose but code: its numbers were computed just now, and if it were not true the cell would fail.
#
# Run the cells from top to bottom; on two CPU cores that takes under five minutes. You need to know a little Python,
# and what a matrix product is.
#
# | | | |
# | --- | --- | --- |
# | 1 The goal, the settings, the text | 7 GELU and the MLP | 13 The KV cache |
# | 2 From bytes to tokens | 8 GPT-2, and where its parameters are | 14 Save and load |
# | 3 The game and its baselines | 9 The loss and its shift | 15 Looking inside |
# | 4 Embeddings and positions | 10 AdamW and Muon by hand | 16 An induction head is born |
# | 5 Attention in three steps | 11 Training | 17 Patching: where an answer comes from |
# | 6 The residual stream | 12 Temperature and sampling | 18 Exercises |
#
# Letters in the shape comments: **B** batch, **T** time (position in the text), **D** `d_model`, **H** heads, **d** =
# D / H, **V** vocabulary. Layers, heads and positions count from 0. Losses are in **nats** (natural logarithms): a
# loss of 0 is certainty, and each nat more means the right answer got e ≈ 2.7 times less probability.
#
# Three words that every section uses. **Parameters** are the numbers inside a model that training sets. The **loss**
# says how badly the model guesses. And a **gradient** says, for each parameter, how much the loss would rise if that
# number were made a little larger: training takes small steps against it, and the **learning rate** says how small.
# PyTorch's `backward()` computes gradients.

# %%
import dataclasses
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import tokenizers
import torch
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor, nn
from tqdm import tqdm

try:  # the package of this project; the notebook also runs without it
    import gpt2.data
    import gpt2.device
    import gpt2.evaluation.bits_per_byte
    import gpt2.inspection
    import gpt2.model.attention
    import gpt2.model.gpt2
    import gpt2.model.layers
    import gpt2.model.ops
    import gpt2.training.optimizers
    import gpt2.training.schedule

    HAVE_PACKAGE = True
except ImportError:
    HAVE_PACKAGE = False

notebook_started = time.perf_counter()
if HAVE_PACKAGE:
    gpt2.device.keep_freed_memory()  # Linux would take freed memory back, and clear it anew for the next step
print(f"PyTorch {torch.__version__}, tokenizers {tokenizers.__version__}")
print(
    "the package gpt2 is",
    "here: every part will be compared with it"
    if HAVE_PACKAGE
    else "not installed: what needs it is skipped, and says so",
)

# %% [markdown]
# Five small helpers. `check` is the ✓. `same` compares a part with the package's own; its second value comes as a
# function, which is only called if the package is there. `shake` gives every parameter a value of its own before such
# a comparison: biases begin at 0 and scales at 1, so a part that *forgot* to use them would pass otherwise. `twin`
# puts our weights into the package's module. `view` draws one of the package's views with the identity that proves
# it.


# %%
def check(sentence: str, holds: bool) -> None:
    """Print a sentence that is true; fail with one that is not."""
    assert holds, f"this is not true here: {sentence}"
    print("✓", sentence)


def same(what: str, ours: Tensor, theirs: Callable[[], Tensor], tolerance: float = 1e-5) -> None:
    """Assert that `ours` equals what the package computes."""
    if not HAVE_PACKAGE:
        print(f"skipped: the package is not installed ({what})")
        return
    difference = (ours.cpu() - theirs().cpu()).abs().max().item()
    assert difference <= tolerance, f"{what} differs from the package's by {difference}"
    print(f"equal to the package's {what}: max difference {difference:.0e}")


@torch.no_grad()
def shake(module: nn.Module) -> nn.Module:
    """Add a little noise to every parameter, in place."""
    for parameter in module.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return module


def twin(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    """The package's module `theirs`, with the weights of `ours`."""
    theirs.load_state_dict(ours.state_dict())
    return theirs


def view(what: str, make: Callable):
    """A view of the package, drawn; its sentence and its check are printed below."""
    if not HAVE_PACKAGE:
        print(f"skipped: the package is not installed ({what})")
        return None
    result = make()
    check(result.summary, result.check is None or result.check.ok)
    if result.check is not None:
        print(f"  proof: {result.check}")
    with plt.rc_context({"axes.grid": False, "axes.titlelocation": "center"}):  # it has a style of its own
        return result.plot()


# One look for all pictures: one blue, one orange, thin lines, and white for "nothing".
INK, MUTED, GRID = "#1b2733", "#56636f", "#c9d1d9"
BLUE, ORANGE, GREEN, PURPLE, GREY, RED = "#1f5fa8", "#b35900", "#2e7d4f", "#8d4a9e", "#5f6b76", "#a8324a"
RAMP = LinearSegmentedColormap.from_list(
    "ramp", ["#ffffff", "#d5e4f3", "#9cc0e3", "#5b96cc", "#2a6bac", "#124680", "#0a2a52"]
)
RAMP.set_bad("#eceff2")  # what cannot be, such as attention to the future
plt.rcParams.update(
    {
        "figure.dpi": 96,
        "figure.constrained_layout.use": True,
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, PURPLE, GREY, RED]),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GRID,
        "axes.labelcolor": MUTED,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": GRID,
        "grid.linewidth": 0.5,
        "text.color": INK,
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
    }
)
plt.close(plt.figure())  # wakes Jupyter's way of showing figures


def heat(axes, matrix: Tensor, title: str = "", top: float = 1.0, labels: list[str] | None = None):
    """A matrix from white (0) to dark blue (`top`), row 0 on top; NaN is grey."""
    image = axes.imshow(matrix.float().numpy(), cmap=RAMP, vmin=0, vmax=top, interpolation="none")
    axes.set_title(title)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if labels is not None:
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
    return image


def hide_future(pattern: Tensor) -> Tensor:
    """An attention pattern (T, T) with NaN where the mask is, for `heat`."""
    return pattern.float().masked_fill(torch.ones_like(pattern, dtype=torch.bool).triu(1), torch.nan)


# %% [markdown]
# ## 1 The goal, the settings, the text
#
# First the goal. The package brings a **demo model**: a small GPT-2, built exactly like the one you are going to build,
# but trained for far longer. Let it tell a story.

# %%
if HAVE_PACKAGE:
    demo, demo_tokenizer = gpt2.load("demo")
    torch.manual_seed(4)
    start = torch.tensor([demo_tokenizer.encode("Once upon a time")])
    story = demo_tokenizer.decode(demo.generate(start, max_new_tokens=60, temperature=0.7)[0].tolist())
    print(f"a story by {sum(parameter.numel() for parameter in demo.parameters()):,} numbers:\n\n{story}")
else:
    print("skipped: the package is not installed (a story of the demo model)")

# %% [markdown]
# A language model does one thing only: at each position it gives every possible next **token**, a word or a piece of
# one, a probability. So for any text we can ask how surprised it was by each token.
#
# **Predict.** In the sentence below, which tokens will surprise the model most? Which will it have been sure of?

# %%
view(
    "how surprised the demo model is",
    lambda: gpt2.inspection.run(
        demo, demo_tokenizer, "Once upon a time there was a little girl named Lily. She loved to eat clouds."
    ).surprise(),
)

# %% [markdown]
# By the end of this notebook you will have built everything that produces these colours. **The settings**: all that
# you may want to change stands in this one cell. With a GPU you get the project's own shape (6 layers, `d_model`
# 512). Without one you get a small model that learns something in the time a person is willing to wait.
#
# Training lasts for a number of `epochs` (passes over the text), or, if `seconds` is above 0, for that long: the
# learning rate then follows the clock, so the run always finishes properly. That is the default on a CPU.

# %%
device = "cuda" if torch.cuda.is_available() else "cpu"  # on a Mac you may try "mps"
gpu = device != "cpu"

# the model
num_layers = 6 if gpu else 4
d_model = 512 if gpu else 96
num_heads = 8 if gpu else 4  # section 5
context_length = 512 if gpu else 128  # the longest text, in tokens, that the model can look at
vocab_size = 10_048 if gpu else 2048
dropout = 0.0  # section 5

# the data
text_file = ""  # "" looks for TinyStories; or give the path of any text
data_fraction = 0.1  # share of the text file that is used
most_megabytes = None if gpu else 16  # but no more than this: a CPU could not read more in the time it has

# the training
optimizer_name = "muon"  # "muon" or "adamw": two rules for the steps, section 10
batch_size = 16  # rows of `context_length` tokens per step
epochs = None  # passes over the text; None: one, or up to ten over a small text
seconds = float(os.environ.get("GPT2_NOTEBOOK_SECONDS", 0 if gpu else 130))  # 0: train for `epochs`
learning_rate = {"muon": 0.02, "adamw": 2e-3}[optimizer_name]
weight_decay = 0.1  # section 10
warmup = 0.05  # share of the run in which the learning rate rises
seed = 0

torch.manual_seed(seed)
torch.set_float32_matmul_precision("high")  # lets newer GPUs use their faster matrix units
assert d_model % num_heads == 0, f"d_model ({d_model}) must be a multiple of num_heads ({num_heads})"
print(f"training on {device}:", f"{seconds:.0f} seconds" if seconds else "by epochs")

# %% [markdown]
# **The text.** We look for [TinyStories](https://arxiv.org/abs/2305.07759), short stories in the words of a small
# child: in `data/`, beside the notebook, and where Kaggle puts data sets. Otherwise we take the stories that come with
# the package.
#
# A text file holds many documents, with `<|endoftext|>` between them. One in twenty is **held out**: the model never
# trains on it, and only there do we measure how good it is. A model judged on its own training text could simply know
# it by heart.

# %%
SEPARATOR = "<|endoftext|>"


def find_text() -> Path | None:
    """The text file to learn from; None: there is none."""
    if text_file:
        return Path(text_file)
    places = [Path("data"), Path(), Path("/kaggle/input")]
    found = [path for place in places for path in sorted(place.glob("TinyStories*train*.txt"))]
    return next(iter([*found, *Path("/kaggle/input").glob("**/TinyStories*train*.txt")]), None)


def read_documents(path: Path) -> list[str]:
    """The first `data_fraction` of the file, cut into documents."""
    size = int(path.stat().st_size * data_fraction)
    size = min(size, int(most_megabytes * 1e6)) if most_megabytes else size
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(size)  # characters: about as many as bytes
    if SEPARATOR in text:
        return text.split(SEPARATOR)[:-1]  # the last one may be cut in two
    print(f"{path} has no {SEPARATOR}: every paragraph (blank lines between) counts as a document")
    return text.split("\n\n")


path = find_text()
if path is not None:
    documents, source = read_documents(path), str(path)
elif HAVE_PACKAGE:
    documents, source = list(gpt2.data.iter_documents()), "the stories that come with the package (all of them)"
else:
    raise FileNotFoundError(
        "There is no text to learn from. Put a text file at data/TinyStories-train.txt (beside this notebook), "
        "or give the path of your own in `text_file` in the settings. On Kaggle: Add Input, search for TinyStories."
    )
documents = [document.strip() for document in documents if document.strip()]
held_out = documents[::20]
training = [document for number, document in enumerate(documents) if number % 20]
assert len(held_out) >= 2, (
    f"{source}: only {len(documents)} documents are used; raise data_fraction, or bring more text"
)

print(f"from {source}:")
print(f"{len(training):,} documents to train on, {sum(map(len, training)):,} characters; {len(held_out):,} held out\n")
print(training[0])

# %% [markdown]
# ## 2 From bytes to tokens
#
# A model computes with numbers, so text becomes a list of integers, its **token ids**. One id per letter makes texts
# long; one per word leaves new words without an id. **Byte-pair encoding** (BPE) lies between: it starts with the 256
# possible bytes and joins, again and again, the pair of neighbours that occurs most often.
#
# **Predict.** Which two characters will be joined first in English stories? And what will the first five whole words
# be?
#
# The algorithm is short enough to write out. Pairs never cross words, so it is enough to know each word once, with
# its number of occurrences. (`Ġ` is how the library below shows a space: it belongs to the word that follows, so
# `" cat"` and `"cat"` are different tokens. This is why a prompt should not end with a space.)

# %%
byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)  # cuts into words, shows bytes as characters
alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())  # one printable character for each of the 256 bytes


def learn_merges(texts: list[str], count: int) -> tuple[list[str], list[float]]:
    """The first `count` merges, and after each one the bytes per token of the text."""
    words = Counter(word for text in texts for word, _ in byte_level.pre_tokenize_str(text))
    pieces = {word: list(word) for word in words}
    number = {symbol: i for i, symbol in enumerate(alphabet)}  # of equally frequent pairs the older symbols win
    total = sum(len(word) * times for word, times in words.items())
    merges, bytes_per_token = [], []
    for _ in range(count):
        pairs = Counter()
        for word, times in words.items():
            for pair in zip(pieces[word], pieces[word][1:], strict=False):
                pairs[pair] += times
        first, second = min(pairs, key=lambda pair: (-pairs[pair], number[pair[0]], number[pair[1]]))
        joined = first + second
        number[joined] = len(number)
        merges.append(joined)
        for word, symbols in pieces.items():
            if joined in word:
                i = 0
                while i < len(symbols) - 1:
                    if symbols[i] == first and symbols[i + 1] == second:
                        symbols[i : i + 2] = [joined]
                    i += 1
        bytes_per_token.append(total / sum(len(pieces[word]) * times for word, times in words.items()))
    return merges, bytes_per_token


few = training[:300]
merges, by_hand = learn_merges(few, 60)
print("joined one after the other:", *merges)

# %% [markdown]
# Each round counts all pairs anew, which is slow for thousands of rounds. So for the real vocabulary we leave this one
# job to a library, Hugging Face's `tokenizers`, after seeing that it does the same. Our class only gives it the two
# methods we need.


# %%
class Tokenizer:
    """Text to ids and back."""

    def __init__(self, bpe: tokenizers.Tokenizer) -> None:
        self.bpe = bpe
        self.end_of_text = bpe.token_to_id(SEPARATOR)

    @classmethod
    def train(cls, texts: list[str], vocab_size: int) -> "Tokenizer":
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        bpe.pre_tokenizer = byte_level
        bpe.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[SEPARATOR],  # one id of its own for "the document ends here"
            initial_alphabet=alphabet,
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        return cls(bpe)

    def encode(self, text: str) -> list[int]:
        return self.bpe.encode(text).ids

    def decode(self, ids: list[int]) -> str:
        return self.bpe.decode(ids)

    def pieces(self, text: str) -> list[str]:
        return [self.bpe.id_to_token(i) for i in self.encode(text)]


library = Tokenizer.train(few, 257 + len(merges))
theirs = [library.bpe.id_to_token(i) for i in range(257, library.bpe.get_vocab_size())]
check(f"our first {len(merges)} merges are the library's", merges == theirs)

tokenizer = Tokenizer.train(training, vocab_size)
vocab_size = tokenizer.bpe.get_vocab_size()  # a small text may have too few pairs for the size we wished
num_bytes = sum(len(text.encode()) for text in few)
sizes = sorted({size for size in (400, 600, 1000, 1500) if size < vocab_size})
trained = [Tokenizer.train(training, size) for size in sizes] + [tokenizer]
gained = [num_bytes / sum(len(each.encode(text)) for text in few) for each in trained]

figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(range(258, 258 + len(by_hand)), by_hand, label="by hand")
axes.plot([*sizes, vocab_size], gained, "o-", markersize=4, label="by the library")
axes.set(xlabel="size of the vocabulary (tokens)", ylabel="bytes per token", title="More tokens, shorter texts")
axes.set_ylim(bottom=0)
axes.legend(loc="lower right")
plt.show()
first_word = next((merge for merge in merges if merge.startswith("Ġ") and len(merge) > 3), merges[-1])
check(
    f"the first pair joined is {merges[0]!r}, the first longer word {first_word!r}; after {len(merges)} merges a token "
    f"holds {by_hand[-1]:.2f} bytes, with all {vocab_size:,} tokens {gained[-1]:.2f}: each new token gains less than "
    "the one before",
    1 < by_hand[0] < by_hand[-1] < gained[-1] and by_hand[29] - by_hand[0] > by_hand[59] - by_hand[30],
)

# %% [markdown]
# Frequent words become one token, rare ones several, and no text is ever unknown, because the bytes are always there.

# %%
sample = "Once upon a time, a dinosaur went to the supermarket. 🦕"
for each in (trained[0], tokenizer):
    print(f"{each.bpe.get_vocab_size():6,} tokens:", " | ".join(each.pieces(sample)))
ids = tokenizer.encode(sample)
check(
    f"{len(sample.encode())} bytes became {len(ids)} tokens, and decode gives the text back, emoji included",
    tokenizer.decode(ids) == sample and len(ids) < len(sample.encode()),
)
same(
    "tokenizer (ids of a document, both trained on the same text)",
    torch.tensor(Tokenizer.train(training[:1000], 500).encode(held_out[0])),
    lambda: torch.tensor(gpt2.Tokenizer.train(training[:1000], 500, allow_fewer=True).encode(held_out[0])),
    tolerance=0,
)

# %% [markdown]
# All documents, one after the other, make one long **stream** of ids, with `<|endoftext|>` after each. From it we
# will cut the windows that the model trains on.


# %%
def to_stream(documents: list[str]) -> Tensor:
    """All documents as one row of ids, each closed by <|endoftext|>: (N,)."""
    parts = [torch.tensor([tokenizer.end_of_text])]
    for first in range(0, len(documents), 1000):
        for encoding in tokenizer.bpe.encode_batch(documents[first : first + 1000]):
            parts.append(torch.tensor([*encoding.ids, tokenizer.end_of_text]))
    return torch.cat(parts)


train_stream, valid_stream = to_stream(training), to_stream(held_out)
assert min(len(train_stream), len(valid_stream)) > context_length + 1, (
    "the text is too short: bring more, or a shorter context"
)
if epochs is None:
    epochs = min(10.0, max(1.0, 5_000_000 / len(train_stream)))
print(f"{len(train_stream):,} tokens to train on, {len(valid_stream):,} held out")

# %% [markdown]
# ## 3 The game and its baselines
#
# The game: given the tokens so far, give every possible next token a probability. The **loss** of one guess is
# $-\ln p$, where p is what the token that really came was given. A loss alone says little, so before building
# anything we play the game in three simple-minded ways:
#
# - **know nothing**: every token is equally likely, so the loss is $\ln V$;
# - **count tokens**: each token as likely as it is frequent in the training text;
# - **count pairs**: as likely as it is frequent *after the token before it* (where that was seldom seen, lean on the
#   count of single tokens).
#
# **Predict.** Counting tokens saves about as much as counting pairs does on top of it. True or false? How low can the
# last one go: above 3 nats, or below?

# %%
valid_starts = torch.linspace(0, len(valid_stream) - context_length - 1, 2 * batch_size).long().tolist()
valid_windows = torch.stack([valid_stream[start : start + context_length + 1] for start in valid_starts])
before, after = valid_windows[:, :-1], valid_windows[:, 1:]

counts = torch.bincount(train_stream, minlength=vocab_size) + 1.0
token_chance = counts / counts.sum()  # (V,)
pairs, how_often = torch.unique(train_stream[:-1] * vocab_size + train_stream[1:], return_counts=True)
wanted = before * vocab_size + after
place = torch.searchsorted(pairs, wanted).clamp(max=len(pairs) - 1)
seen = torch.where(pairs[place] == wanted, how_often[place], 0)
lean = 5.0  # as if this many more tokens had been seen, spread as single tokens are
pair_chance = (seen + lean * token_chance[after]) / (counts[before] + lean)

baselines = {
    "know nothing": math.log(vocab_size),
    "count tokens": -token_chance[after].log().mean().item(),
    "count pairs": -pair_chance.log().mean().item(),
}
LINES = dict(zip(baselines, (":", "--", "-."), strict=True))


def draw_baselines(axes) -> None:
    """The three baselines as grey lines, on every picture of a loss from here on."""
    for name, value in baselines.items():
        axes.axhline(value, linestyle=LINES[name], color=GREY, linewidth=1.1)
        axes.annotate(
            f"{name} {value:.2f}", (1, value), xycoords=("axes fraction", "data"), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=8, color=MUTED,
        )  # fmt: skip


figure, axes = plt.subplots(figsize=(7, 1.9))
bars = axes.barh(list(baselines), list(baselines.values()), color=[GREY, ORANGE, BLUE], height=0.6)
axes.bar_label(bars, [f"{value:.2f}" for value in baselines.values()], padding=4)
axes.invert_yaxis()
axes.grid(axis="y", visible=False)
axes.set(xlabel="loss on held-out text (nats per token)", title="Three ways to guess without a network")
plt.show()
steps_down = [a - b for a, b in zip(list(baselines.values()), list(baselines.values())[1:], strict=False)]
check(
    f"counting tokens saves {steps_down[0]:.2f} nats per token, counting pairs {steps_down[1]:.2f} more; what is left, "
    f"{baselines['count pairs']:.2f}, is as if one had to choose among {math.exp(baselines['count pairs']):.0f} "
    "equally "
    "likely tokens",
    min(steps_down) > 0,
)

# %% [markdown]
# These three stay as grey lines on every loss from here on. A network is only worth its trouble if it gets below the
# lowest: then it has learned something that needs more than one token of the past.

# %% [markdown]
# ## 4 Embeddings and positions
#
# An id is only a label; token 7 is not "more" than token 6. So each token gets a vector of D numbers, which training
# will fill with meaning. An **embedding** is a table of such vectors, and using it means taking rows:
#
# $$x_t = W[\text{id}_t]$$


# %%
class Embedding(nn.Module):
    """A table with one row for each id."""

    def __init__(self, rows: int, d_model: int, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(std * torch.randn(rows, d_model))

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids]  # (B, T) -> (B, T, D)


table = Embedding(rows=10, d_model=4)
few_ids = torch.tensor([[3, 1, 3]])  # (1, 3)
vectors = table(few_ids)
check(
    f"ids {tuple(few_ids.shape)} become vectors {tuple(vectors.shape)}, and the same id gives the same vector",
    torch.equal(vectors[0, 0], vectors[0, 2]),
)
if HAVE_PACKAGE:
    kernels = gpt2.model.ops.kernels("fused")  # the package's fast kernels: the harder comparison
same("embedding", vectors, lambda: kernels.embedding(few_ids, table.weight))

# %% [markdown]
# "dog bites man" and "man bites dog" have the same tokens. Whatever collects tokens by a *sum* cannot tell them apart,
# and attention, in the next section, will be a sum. So there is a second table with a row for each **position**, and
# the two vectors are **added**:
#
# $$x_t = \text{wte}[\text{id}_t] + \text{wpe}[t]$$
#
# **Predict.** Does adding not muddle the two? Take two random vectors of D numbers each. What is the angle between
# them if D is 2? If D is 128?

# %%
widths = (2, 8, 32, 128, 512)
cosines = {}
for width in widths:
    a, b = torch.randn(2, 4000, width)
    cosines[width] = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))

figure, axes = plt.subplots(figsize=(7, 3))
for shade, (width, values) in zip((0.35, 0.5, 0.65, 0.8, 1.0), cosines.items(), strict=True):
    heights, edges = torch.histogram(values, bins=60, range=(-1.0, 1.0), density=True)
    axes.plot((edges[:-1] + edges[1:]) / 2, heights, color=RAMP(shade), label=f"D = {width}")
axes.set(
    xlabel="cosine of the angle (0: a right angle, 1: the same direction)",
    ylabel="density",
    title="Two random vectors, ever closer to a right angle",
)
axes.legend()
plt.show()
average = {width: values.abs().mean().item() for width, values in cosines.items()}
check(
    f"the cosine is {average[2]:.2f} in size for D = 2, but only {average[128]:.3f} for D = 128: in many dimensions "
    "two random vectors hardly touch, so a later layer can read one without being disturbed by the other",
    average[128] < 0.1 < average[2],
)

# %% [markdown]
# So there is room for both in one sum. (Putting them end to end would work as well, and make everything after it
# wider.) The other half of the claim, that without positions the model sees a **bag of words**, needs attention; it is
# the last experiment of the next section.

# %% [markdown]
# ## 5 Attention in three steps
#
# One tool first, the **linear layer**: every output is a weighted sum of all inputs, plus a bias.
#
# $$y = x W + b$$
#
# Our `W` has the shape (in, out), as in OpenAI's GPT-2. PyTorch's own layer stores it the other way round; whoever
# loads GPT-2's weights must know this, because a *square* matrix loads either way without any error, and is then
# wrong.


# %%
class Linear(nn.Module):
    """y = x W + b."""

    def __init__(self, in_features: int, out_features: int, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(std * torch.randn(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias  # (..., in) -> (..., out)


x = torch.randn(2, 5, 8)  # (B, T, D)
linear = shake(Linear(8, 3))
summed = sum(x[0, 0, i] * linear.weight[i, 2] for i in range(8)) + linear.bias[2]
check(
    f"output 2 of the first token, summed by hand, is {summed.item():.4f}; by the layer "
    f"{linear(x)[0, 0, 2].item():.4f}",
    abs(summed.item() - linear(x)[0, 0, 2].item()) < 1e-5,
)
same("linear layer", linear(x), lambda: twin(gpt2.model.layers.Linear(8, 3, kernels), linear)(x))

# %% [markdown]
# **Step one: an average.** So far each token stands alone. Attention is the one place where tokens exchange
# information: each collects something from those before it. The simplest way to collect is the plain average of the
# past, and a triangular matrix does it for all positions at once:

# %%
T = 4
values = torch.tensor([[1.0], [2.0], [3.0], [4.0]])  # (T, 1): one number per token
weights = torch.ones(T, T).tril()
weights = weights / weights.sum(dim=-1, keepdim=True)  # (T, T): row t says how much token t takes from each token
print(weights)
print("running average:", (weights @ values).flatten().tolist())

# %% [markdown]
# **Step two: an average that chooses.** From its vector each token computes three others:
#
# - a **query** q: what am I looking for?
# - a **key** k: what do I have to offer?
# - a **value** v: what do I hand over if you choose me?
#
# The dot product of a query and a key is the **score**: how well the two fit. Softmax turns the scores of one token
# into weights that are positive and sum to 1. Why three vectors and not one? What a token looks for is not what it
# offers: in "the cat sat", "sat" looks for a noun, and is a verb itself.
#
# $$\text{attention}(q, k, v) = \text{softmax}\left(\frac{q k^\top}{\sqrt{d}}\right) v$$


# %%
def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum exp(x) over the last axis."""
    largest = x.amax(dim=-1, keepdim=True).detach()  # no gradient: what all have in common changes nothing
    exponentials = (x - largest).exp()  # the largest becomes exp(0): nothing overflows
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


one, other = softmax(torch.tensor([1.0, 2.0, 3.0])), softmax(torch.tensor([1001.0, 1002.0, 1003.0]))
check(
    f"softmax of 1, 2, 3 is {', '.join(f'{p:.2f}' for p in one.tolist())}, and of 1001, 1002, 1003 the same: only "
    "differences count",
    torch.allclose(one, other) and abs(one.sum().item() - 1) < 1e-6,
)

# %% [markdown]
# **Predict.** A query and a key of d random numbers each: how large is their dot product for d = 4, for d = 512? And
# among 16 such scores, how much of the softmax will go to the largest one?

# %%
dims = [2**n for n in range(1, 11)]
peaks: dict[str, list[float]] = {"scores as they are": [], "divided by the square root of d": []}
spreads: dict[str, list[float]] = {name: [] for name in peaks}
for d in dims:
    q, k = torch.randn(1000, 1, d), torch.randn(1000, 16, d)
    scores = (q @ k.transpose(-2, -1)).squeeze(1)  # (1000, 16)
    for name, x in zip(peaks, (scores, scores / math.sqrt(d)), strict=True):
        spreads[name].append(x.std().item())
        peaks[name].append(softmax(x).amax(-1).mean().item())

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
for (name, spread), colour in zip(spreads.items(), (ORANGE, BLUE), strict=True):
    left.plot(dims, spread, "o-", markersize=3, color=colour, label=name)
    right.plot(dims, peaks[name], "o-", markersize=3, color=colour, label=name)
left.set(xscale="log", yscale="log", xlabel="d, numbers per head", ylabel="spread of the scores", title="Scores grow")
right.set(xscale="log", ylim=(0, 1), xlabel="d, numbers per head", ylabel="weight of the largest of 16",
          title="and the softmax hardens")  # fmt: skip
left.legend()
plt.show()
raw, scaled = peaks.values()
check(
    f"at d = {dims[-1]} the largest of 16 scores takes {raw[-1]:.0%} of the weight, divided by the square root of d "
    f"{scaled[-1]:.0%}, as at d = {dims[0]} ({scaled[0]:.0%})",
    raw[-1] > 0.9 and abs(scaled[-1] - scaled[2]) < 0.1,
)

# %% [markdown]
# A score is a sum of d products of random numbers. Each has the variance 1, so the sum has the variance d, and its
# **spread** (the standard deviation, the root of the variance) is the root of d. A softmax that gives nearly
# everything to one token has almost no gradient, before anything has been learned; dividing by $\sqrt{d}$ brings the
# variance back to 1. That is all this division is for.
#
# **Step three: the mask and the heads.** The model will learn to predict the next token at *every* position at once,
# so a token must not see the ones after it: it would simply copy the answer. We set those scores to minus infinity,
# and the softmax gives them exactly 0.
#
# And one pattern can follow one question only. So the D dimensions are cut into H **heads** of d = D / H, each with
# its own pattern, and a last linear layer mixes what they found. One matrix, `c_attn`, computes q, k and v of all
# heads together. Mind the `transpose`: (B, T, H·d) must be *viewed* as (B, T, H, d) and then *transposed* to
# (B, H, T, d). Viewing it as (B, H, T, d) right away gives the right shape and the wrong numbers.
#
# **Dropout**, which sits in three places, is a brake against learning by heart: in training it sets a random share p
# of the numbers to zero and scales the others up. With more text than the model can memorise it only slows things
# down, so its default here is 0, and it must never act while generating.


# %%
def attention_pattern(q: Tensor, k: Tensor) -> Tensor:
    """Who looks at whom: queries and keys (B, H, T, d) -> weights (B, H, T, T)."""
    time, head_dim = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(head_dim)
    future = torch.ones(time, time, dtype=torch.bool, device=q.device).triu(diagonal=1)
    return softmax(scores.masked_fill(future, -torch.inf))


class Dropout(nn.Module):
    """Zeroes a share p while training."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return x * (torch.rand_like(x) >= self.p) / (1 - self.p)


@dataclass(frozen=True)
class GPT2Config:
    """The numbers that fix the shape of a GPT-2."""

    vocab_size: int
    context_length: int
    d_model: int
    num_layers: int
    num_heads: int
    dropout: float = 0.0
    eos_token_id: int | None = None  # the id of <|endoftext|>: generation stops there


class CausalSelfAttention(nn.Module):
    """Attention over a token's own past, with several heads."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.c_attn = Linear(config.d_model, 3 * config.d_model)
        out_std = 0.02 / math.sqrt(2 * config.num_layers)  # why it is smaller: section 6
        self.c_proj = Linear(config.d_model, config.d_model, std=out_std)
        self.attention_dropout, self.dropout = Dropout(config.dropout), Dropout(config.dropout)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> three times (B, H, T, d)."""
        batch, time, d_model = x.shape
        qkv = self.c_attn(x).view(batch, time, 3, self.num_heads, d_model // self.num_heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.queries_keys_values(x)
        z = self.attention_dropout(attention_pattern(q, k)) @ v  # (B, H, T, d)
        z = z.transpose(1, 2).reshape(x.shape)  # the heads side by side again: (B, T, D)
        return self.dropout(self.c_proj(z))


dropped = Dropout(0.2)(torch.ones(100_000))
check(
    f"dropout of 0.2 zeroes {(dropped == 0).float().mean():.1%} and keeps the mean at {dropped.mean():.3f}",
    abs(dropped.mean().item() - 1) < 0.01 and torch.equal(Dropout(0.2).eval()(dropped), dropped),
)
tiny = GPT2Config(vocab_size=50, context_length=16, d_model=32, num_layers=2, num_heads=4)
if HAVE_PACKAGE:
    their_tiny = gpt2.GPT2Config(**asdict(tiny))
attention_layer = shake(CausalSelfAttention(tiny))
x = torch.randn(2, 16, 32)
same(
    "attention layer",
    attention_layer(x),
    lambda: twin(gpt2.model.attention.CausalSelfAttention(their_tiny, kernels), attention_layer)(x),
)

# %% [markdown]
# **Is it right?** Here is a test that needs no reference: change one input and see which outputs move. Each output
# should depend on its whole past and on nothing else. Below are six implementations, one right and five with mistakes
# that people really make; all give the right *shape*, and several have survived in published code, because training
# still works, only worse.
#
# **Predict.** Which of the five leak the future? Which hide a part of the past? Can a model be perfectly causal and
# still be broken?


# %%
def written_otherwise(x: Tensor, split: bool = True, merge: bool = True, mask: str = "before") -> tuple[Tensor, Tensor]:
    """Outputs and patterns of `attention_layer`'s weights, if splitting, merging or masking were done like this."""
    batch, time, width = x.shape
    heads, dim = attention_layer.num_heads, width // attention_layer.num_heads
    q, k, v = attention_layer.c_attn(x).chunk(3, dim=-1)
    if split:  # (B, T, D) -> (B, T, H, d) -> (B, H, T, d)
        q, k, v = (part.view(batch, time, heads, dim).transpose(1, 2) for part in (q, k, v))
    else:  # the right shape, the wrong numbers
        q, k, v = (part.reshape(batch, heads, time, dim) for part in (q, k, v))
    scores = q @ k.transpose(-2, -1) / math.sqrt(dim)
    past = torch.ones(time, time, dtype=torch.bool).tril()
    pattern = softmax(scores.masked_fill(~past, -torch.inf) if mask == "before" else scores)
    if mask == "after":
        pattern = pattern * past
    z = pattern @ v
    z = z.transpose(1, 2).reshape(x.shape) if merge else z.reshape(x.shape)
    return attention_layer.c_proj(z), pattern


@torch.no_grad()
def dependency(layer: Callable[[Tensor], Tensor], time: int, width: int) -> Tensor:
    """[i, j] is true where output i moves when input j is changed: (T, T)."""
    x = torch.randn(1, time, width)
    nudged = x.repeat(time, 1, 1)
    nudged[torch.arange(time), torch.arange(time)] += torch.randn(time, width)
    return ((layer(nudged) - layer(x)).abs().amax(-1) > 1e-6).T


six = {
    "correct": {},
    "heads merged without transpose": {"merge": False},
    "heads split without transpose": {"split": False},
    "both without transpose": {"split": False, "merge": False},
    "no mask": {"mask": "none"},
    "mask after the softmax": {"mask": "after"},
}
allowed = torch.ones(16, 16, dtype=torch.bool).tril()
found: dict[str, tuple[Tensor, float]] = {}
figure, grid = plt.subplots(2, 3, figsize=(8.4, 6.6))
for axes, (name, how) in zip(grid.flat, six.items(), strict=True):
    moves = dependency(lambda x, how=how: written_otherwise(x, **how)[0], 16, 32)
    with torch.no_grad():
        row_sum = written_otherwise(torch.randn(1, 16, 32), **how)[1].sum(-1).min().item()
    found[name] = (moves, row_sum)
    heat(axes, moves * 0.3, name)
    leaks, missed = (moves & ~allowed).nonzero(), (~moves & allowed).nonzero()
    axes.plot(leaks[:, 1], leaks[:, 0], "x", color=RED, markersize=4)
    axes.plot(missed[:, 1], missed[:, 0], ".", color=MUTED, markersize=4)
    axes.set_xlabel(f"{len(leaks)} leaks, {len(missed)} missed, row sum {row_sum:.2f}")
grid[0, 0].set_ylabel("output i that moves")
grid[1, 0].set_ylabel("output i that moves")
figure.suptitle("Input j (across) is changed. Blue: output i moves. × leak from the future. • past that is not seen.\n",
                fontsize=9, color=MUTED)  # fmt: skip
plt.show()
counts_of = {
    name: (int((m & ~allowed).sum()), int((~m & allowed).sum()), round(s, 2)) for name, (m, s) in found.items()
}
check("the correct one has no leak and misses nothing, and its rows sum to 1", counts_of["correct"] == (0, 0, 1.0))
check(
    f"the other five are each wrong in their own way; splitting and merging both wrongly leaks nothing, and hides "
    f"{counts_of['both without transpose'][1]} of {int(allowed.sum())} cells of the past",
    all(c != (0, 0, 1.0) for name, c in counts_of.items() if name != "correct")
    and len({(m.numpy().tobytes(), round(s, 2)) for m, s in found.values()}) == 6
    and counts_of["both without transpose"][0] == 0,
)
same(
    "dependency (outputs that move), of the correct attention",
    dependency(attention_layer, 16, 32).float(),
    lambda: (
        gpt2.inspection.dependency(lambda ids: attention_layer(torch.eye(32)[ids]), 16, vocab_size=32).moved > 1e-6
    ).float(),
    tolerance=0,
)

# %% [markdown]
# So a test that looks only for leaks is half a test. This one is worth keeping in any project.
#
# **A bag of words.** Now the promise of section 4. We leave the positions out, shuffle all tokens before the last one,
# and look how far the *last* output moves.
#
# **Predict.** One layer of attention: will it move? Two layers? (Careful: the mask is still there.)

# %%
torch.manual_seed(1)
layers = [shake(CausalSelfAttention(tiny)) for _ in range(3)]
tokens, positions = torch.randn(2, 1, 16, 32)
order = torch.cat([torch.randperm(15), torch.tensor([15])])  # the last stays last


@torch.no_grad()
def last_output(x: Tensor, depth: int) -> Tensor:
    for layer in layers[:depth]:
        x = x + layer(x)
    return x[0, -1]


def moved(where: Tensor | float, depth: int) -> float:
    """How far shuffling moves the last output, as a share of its length."""
    still = last_output(tokens + where, depth)
    return ((last_output(tokens[:, order] + where, depth) - still).norm() / still.norm()).item()


without = [moved(0.0, depth) for depth in (1, 2, 3)]
with_positions = [moved(positions, depth) for depth in (1, 2, 3)]
figure, axes = plt.subplots(figsize=(7, 2.8))
axes.bar([0.8, 1.8, 2.8], without, 0.36, label="without positions", color=ORANGE)
axes.bar([1.2, 2.2, 3.2], with_positions, 0.36, label="with positions", color=BLUE)
axes.set(yscale="log", ylim=(1e-8, 10), xticks=[1, 2, 3], xlabel="layers of attention",
         ylabel="how far the last output moves\n(share of its length)",
         title="Shuffling all tokens but the last")  # fmt: skip
axes.grid(axis="x", visible=False)
axes.legend(ncols=2, loc="upper left")
plt.show()
check(
    f"without positions, shuffling moves the last output of one layer by {without[0]:.0e} of its length, which is "
    f"rounding; of two layers by {without[1]:.2f}; with positions by {with_positions[0]:.2f} already in one",
    without[0] < 1e-5 < 1e-3 < min(without[1:]) and min(with_positions) > 1e-2,
)

# %% [markdown]
# One layer of attention is a bag of words: a weighted sum does not care about order. With depth a little order leaks
# in through the mask, since the tokens in between have seen different pasts. It is a poor substitute: with positions
# the order is there from the start.

# %% [markdown]
# ## 6 The residual stream
#
# A **block** is attention, then an **MLP**, a small network for each token alone (section 7). Neither replaces x: each
# *adds* to it. This running sum is the **residual stream**; think of a page that every layer reads, and writes a few
# lines onto. Before it reads, each part takes the page through a **layer norm**, which gives every token's vector mean
# 0 and variance 1 and then lets the model choose a scale and a shift for each dimension:
#
# $$y = \frac{x - \text{mean}(x)}{\sqrt{\text{var}(x) + \varepsilon}} \cdot w + b \qquad
# x \leftarrow x + \text{attention}(\text{norm}_1(x)) \qquad x \leftarrow x + \text{mlp}(\text{norm}_2(x))$$
#
# The norm works on each token alone, over its D numbers: never over the batch or over time. The variance divides by
# D, not by D - 1. And the norm stands *before* each part (pre-LN), not after the sum as in the first transformer
# paper: the page itself is never rewritten.


# %%
class LayerNorm(nn.Module):
    """Mean 0 and variance 1 for each token, then a learned scale and shift."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True)
        return centred / (variance + 1e-5).sqrt() * self.weight + self.bias  # (..., D) -> (..., D)


x = 5 + 3 * torch.randn(2, 5, 64)
y = LayerNorm(64)(x)
check(
    f"a token with mean {x[0, 0].mean():.2f} and spread {x[0, 0].std(correction=0):.2f} leaves the norm with mean "
    f"{y[0, 0].mean().abs():.2f} and spread {y[0, 0].std(correction=0):.2f}",
    y.mean(-1).abs().max().item() < 1e-5 and (y.std(-1, correction=0) - 1).abs().max().item() < 1e-3,
)
norm = shake(LayerNorm(64))
same("layer norm", norm(x), lambda: twin(gpt2.model.layers.LayerNorm(64, kernels), norm)(x))

# %% [markdown]
# Every block adds to the stream twice, so with L layers there are 2 L additions. `c_proj`, the last matrix of each of
# them, starts smaller than the others, by $1/\sqrt{2L}$. "But the norms take care of sizes anyway": so thinks
# everybody at first, and even well-known code went for years without noticing that this line had no effect.
#
# **Predict.** Twelve layers. Without that factor, how much larger is the stream at the end than at the beginning: 2
# times, 10 times, 50 times? And who gets the larger gradients, the first layers or the last?

# %%
depth, width = 12, 128


def stack(scaled: bool) -> tuple[list[float], list[float]]:
    """MLPs at the start of training: the stream's spread before and after each, and each one's gradient."""
    out = 0.02 / math.sqrt(2 * depth) if scaled else 0.02
    norm, x, ins = LayerNorm(width), 0.02 * torch.randn(256, width), []
    spread = [x.std().item()]
    for _ in range(depth):
        ins.append((0.02 * torch.randn(width, 4 * width)).requires_grad_(True))
        x = x + (norm(x) @ ins[-1]).clamp(min=0) @ (out * torch.randn(4 * width, width))
        spread.append(x.std().item())
    (norm(x) * torch.randn(256, width)).mean().backward()
    return spread, [w.grad.norm().item() for w in ins]


grown, gradients = {}, {}
for scaled, name in ((False, "c_proj like all others"), (True, "c_proj scaled by 1/√(2L)")):
    grown[name], gradients[name] = stack(scaled)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
for name, colour in zip(grown, (ORANGE, BLUE), strict=True):
    left.plot(grown[name], "o-", markersize=3, color=colour, label=name)
    right.plot([g / gradients[name][-1] for g in gradients[name]], "o-", markersize=3, color=colour, label=name)
left.set(xlabel="after layer", ylabel="spread of the stream", title="The stream grows", ylim=(0, None))
left.legend()
right.set(xlabel="layer", ylabel="gradient, as multiples\nof the last layer's", title="and later layers count for less",
          ylim=(0, None))  # fmt: skip
plt.show()
(fast, slow), (uneven, even) = (
    [values[-1] / values[0] for values in grown.values()],
    [max(values) / min(values) for values in gradients.values()],
)
check(
    f"over {depth} layers the stream grows {fast:.0f} times without the factor, {slow:.1f} times with it; the first "
    f"layer's gradient is {uneven:.1f} times the last one's without, {even:.1f} times with it",
    fast > 2 * slow and uneven > even,
)

# %% [markdown]
# The norm in front of a layer makes its *input* the same size whatever the stream does. But what the layer *adds* is
# then small beside a stream that has grown, and so is its gradient. The factor keeps the shares fair.

# %% [markdown]
# ## 7 GELU and the MLP
#
# Attention gathers; the **MLP** then thinks about what was gathered, for each token alone: widen to 4 D, bend, narrow
# back to D. (The letters stand for *multi-layer perceptron*, its old name.) Without the bend two linear layers would
# collapse into one. The simplest bend is the **ReLU**: what is below 0 becomes 0. GPT-2 takes **GELU**, a smooth one: x
# times the share of a bell curve that lies below x. That share has no simple formula, and GPT-2 was trained with this
# approximation:
#
# $$\text{gelu}(x) = \tfrac12\, x \left(1 + \tanh\left(\sqrt{2/\pi}\,(x + 0.044715\, x^3)\right)\right)$$
#
# The exact form (with the error function) is a slightly different function, and programs do mix them up.
#
# **Predict.** How far apart are the two at most: 0.1, 0.01, 0.001? If a trained model is run with the wrong one, will
# it choose other words? (What a model gives out are its **logits**: one score for each possible next token; the
# softmax makes probabilities of them.)


# %%
def gelu(x: Tensor) -> Tensor:
    """GPT-2's form, with tanh."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def exact_gelu(x: Tensor) -> Tensor:
    """With the error function."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


x = torch.linspace(-5, 5, 1001)
gap = gelu(x.double()) - exact_gelu(x.double())
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8))
left.plot(x, x.clamp(min=0), "--", color=GREY, label="ReLU")
left.plot(x, gelu(x), color=BLUE, label="GELU")
left.set(xlabel="x", ylabel="output", title="A ReLU with a soft corner")
left.legend()
right.plot(x, 1000 * gap, color=ORANGE)
right.set(xlabel="x", ylabel="thousandths", title="The tanh form minus the exact one")
plt.show()
worst = gap.abs().argmax().item()
check(
    f"the two forms differ by {gap.abs().max():.1e} at most, near x = ±{abs(x[worst].item()):.1f}",
    1e-4 < gap.abs().max().item() < 1e-3,
)
same("GELU", gelu(x), lambda: kernels.gelu(x))

if HAVE_PACKAGE:  # the demo model with the wrong one
    swapped, _ = gpt2.load("demo", kernels=dataclasses.replace(gpt2.model.ops.kernels("reference"), gelu=exact_gelu))
    text_ids = torch.tensor([demo_tokenizer.encode(" ".join(held_out[:4]))[: demo.config.context_length]])
    with torch.no_grad():
        right_one, wrong_one = demo(text_ids)[0], swapped(text_ids)[0]
    changed = (right_one.argmax(-1) != wrong_one.argmax(-1)).float().mean().item()
    check(
        f"run with the exact form, the demo model's logits move by {(right_one - wrong_one).abs().max():.4f} at "
        "most, and "
        f"its favourite token changes at {changed:.1%} of {text_ids.shape[1]} positions",
        0 < (right_one - wrong_one).abs().max().item() < 0.1 and changed < 0.05,
    )
else:
    print("skipped: the package is not installed (the demo model with the exact GELU)")

# %% [markdown]
# Small enough to be overlooked, large enough that a comparison of logits with a reference fails. This is what such
# comparisons are for.


# %%
class MLP(nn.Module):
    """Each token on its own: widen four times, bend, narrow again."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Linear(config.d_model, 4 * config.d_model)
        self.c_proj = Linear(4 * config.d_model, config.d_model, std=0.02 / math.sqrt(2 * config.num_layers))
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(gelu(self.c_fc(x))))  # (B, T, D) -> (B, T, 4 D) -> (B, T, D)


class Block(nn.Module):
    """Attention, then an MLP; each reads the stream through a norm and adds to it."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.d_model)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config.d_model)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))  # (B, T, D) -> (B, T, D)


x = torch.randn(2, 16, 32)
mlp, block = shake(MLP(tiny)), shake(Block(tiny))
same("MLP", mlp(x), lambda: twin(gpt2.model.layers.MLP(their_tiny, kernels), mlp)(x))
same("block", block(x), lambda: twin(gpt2.model.gpt2.Block(their_tiny, kernels), block)(x))

# %% [markdown]
# ## 8 GPT-2, and where its parameters are
#
# Now everything together: add token and position embeddings, run through the blocks, one last norm (the stream was
# never normalised, so `ln_f` is needed). Then each final vector is compared, by dot product, with the embedding of
# every token. The result is V numbers per position, the logits: one score for each possible next token.
#
# The table that turns tokens into vectors is the same that turns vectors into tokens: the embeddings are **tied**. So
# there is no separate output matrix, nor a parameter for it.
#
# `state_dict`, PyTorch's dictionary of all weights, hands our configuration along with them, so that a saved file says
# by itself what shape it is.


# %%
class Transformer(nn.Module):
    """Ids to the final, normalised residual stream."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.wte = Embedding(config.vocab_size, config.d_model)  # tokens
        self.wpe = Embedding(config.context_length, config.d_model, std=0.01)  # positions
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.ln_f = LayerNorm(config.d_model)

    def embed(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self.drop(self.wte(ids) + self.wpe(positions))  # (B, T, D)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class GPT2(nn.Module):
    """Ids (B, T) -> logits (B, T, V)."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)

    def forward(self, ids: Tensor) -> Tensor:
        limit = self.config.context_length
        assert ids.shape[1] <= limit, f"{ids.shape[1]} tokens do not fit into the context of {limit}"
        return self.transformer(ids) @ self.transformer.wte.weight.T

    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        state._metadata[""]["config"] = asdict(self.config)
        return state

    @classmethod
    def load(cls, path: str | Path) -> "GPT2":
        state = torch.load(path, map_location="cpu", weights_only=True)
        model = cls(GPT2Config(**state._metadata[""]["config"]))
        model.load_state_dict(state)
        return model.eval()

    @torch.no_grad()
    def generate(self, context: Tensor, max_new_tokens: int, temperature: float = 1.0) -> Tensor:
        return generate(self, context, max_new_tokens, temperature)  # section 12


few_ids = torch.randint(tiny.vocab_size, (3, 16))
tiny_model = shake(GPT2(tiny))
print("logits:", tuple(tiny_model(few_ids).shape), "= (B, T, V)")
same("GPT-2, whole model (logits)", tiny_model(few_ids), lambda: twin(gpt2.GPT2(their_tiny), tiny_model)(few_ids))

# %% [markdown]
# Is it the real GPT-2? The smallest one that OpenAI published has 124,439,808 parameters; the largest is called XL. We
# can count ours in the same shapes on PyTorch's `meta` device, which knows shapes and needs no memory.
#
# **Predict.** Where do most parameters live: in the token embeddings, in attention, in the MLPs? Is it the same in the
# small model that we are about to train and in the largest GPT-2?


# %%
def ledger(model: nn.Module) -> dict[str, int]:
    """How many parameters each kind of part has."""
    parts = {"tokens": "wte", "positions": "wpe", "attention": "attn", "MLP": "mlp", "norms": "ln_"}
    owned = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        owned[next(part for part, mark in parts.items() if mark in name)] += parameter.numel()
    return owned


def by_formula(config: GPT2Config) -> int:
    """(V + T) D for the tables, 12 D² + 13 D per block, 2 D for the last norm."""
    width = config.d_model
    tables = (config.vocab_size + config.context_length) * width
    return tables + config.num_layers * (12 * width * width + 13 * width) + 2 * width


config = GPT2Config(
    vocab_size, context_length, d_model, num_layers, num_heads, dropout, eos_token_id=tokenizer.end_of_text
)
shapes = {
    "ours": config,
    "GPT-2 small": GPT2Config(50_257, 1024, 768, 12, 12),
    "GPT-2 XL": GPT2Config(50_257, 1024, 1600, 48, 25),
}
with torch.device("meta"):
    ledgers = {name: ledger(GPT2(shape)) for name, shape in shapes.items()}
totals = {name: sum(owned.values()) for name, owned in ledgers.items()}
figure, axes = plt.subplots(figsize=(8, 2.4))
left_edge = dict.fromkeys(ledgers, 0.0)
for part, colour in zip(ledgers["ours"], (ORANGE, "#e0b080", BLUE, "#124680", GREY), strict=True):
    for name, owned in ledgers.items():
        share = owned[part] / totals[name]
        axes.barh(name, share, left=left_edge[name], color=colour, height=0.62, label=part if name == "ours" else None)
        if share > 0.06:
            axes.text(left_edge[name] + share / 2, name, f"{share:.0%}", ha="center", va="center", color="white")
        left_edge[name] += share
axes.set_yticks(range(3), [f"{name}\n{total:,}" for name, total in totals.items()])
axes.invert_yaxis()
axes.grid(visible=False)
axes.set(xlim=(0, 1), xticks=[0, 0.25, 0.5, 0.75, 1], xlabel="share of all parameters")
axes.set_xticklabels(["0", "25 %", "50 %", "75 %", "100 %"])
axes.legend(ncols=5, loc="lower left", bbox_to_anchor=(0, 1.0), handlelength=1)
plt.show()
shares = {name: {part: n / totals[name] for part, n in owned.items()} for name, owned in ledgers.items()}
check(
    f"GPT-2 small has {totals['GPT-2 small']:,} parameters, by counting and by formula; XL has "
    f"{totals['GPT-2 XL'] / totals['GPT-2 small']:.1f} times as many",
    totals["GPT-2 small"] == 124_439_808 and all(totals[n] == by_formula(shape) for n, shape in shapes.items()),
)
check(
    "the larger the model, the more of it is in the blocks: the token table is "
    f"{shares['GPT-2 small']['tokens']:.0%} of "
    f"GPT-2 small and {shares['GPT-2 XL']['tokens']:.0%} of XL, and MLPs always hold twice what attention does; an "
    f"untied output matrix would add {50_257 * 768:,} to GPT-2 small",
    shares["GPT-2 XL"]["tokens"] < shares["GPT-2 small"]["tokens"]
    and all(1.9 < owned["MLP"] / owned["attention"] < 2.1 for owned in ledgers.values()),
)

# %% [markdown]
# ## 9 The loss and its shift
#
# At every position the model guesses the next token, so the **targets** are the inputs shifted by one. The loss of one
# guess is the **cross-entropy** $-\ln p$ from section 3, in logits:
#
# $$-\ln \text{softmax}(\text{logits})_{\text{target}} = \ln \sum_j e^{\text{logit}_j} - \text{logit}_{\text{target}}$$
#
# It is computed in 32-bit floats, whatever the model computes in. An untrained model knows nothing, so its loss must
# be close to $\ln V$; if it is not, something is wrong already.


# %%
def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-ln p of each target: (..., V), (...) -> (...)."""
    logits = logits.float()
    return logits.logsumexp(dim=-1) - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


some_logits, some_targets = 3 * torch.randn(10, 50), torch.randint(50, (10,))
same(
    "cross-entropy", cross_entropy(some_logits, some_targets), lambda: kernels.cross_entropy(some_logits, some_targets)
)
torch.manual_seed(seed)
model = GPT2(config).to(device)
with torch.no_grad():
    first = valid_windows[:4].to(device)
    untrained = cross_entropy(model(first[:, :-1]), first[:, 1:]).mean().item()
check(
    f"the loss before training is {untrained:.3f}, and ln V is {math.log(vocab_size):.3f}",
    abs(untrained - math.log(vocab_size)) < 0.3,
)

# %% [markdown]
# The shift must happen exactly once: here in the data, and not again in the model. Two mistakes are common.
# *Forgotten*: input and target are the same. *Done twice*: data and model both shift.
#
# **Predict.** Three small models are trained for a few hundred steps: one right, one with each mistake. Whose training
# loss will look best? Which will look merely a little worse than it should, so that nobody notices?


# %%
def random_batch(stream: Tensor, rows: int = batch_size, length: int = context_length) -> Tensor:
    """Windows of the stream, one token longer than the inputs: (rows, length + 1)."""
    starts = torch.randint(len(stream) - length, (rows,)).tolist()
    return torch.stack([stream[start : start + length + 1] for start in starts]).to(device)


small = GPT2Config(vocab_size, 48, 64, num_layers=1, num_heads=4)


def train_small(steps: int, update: Callable[[nn.Module], None], shift: int = 1) -> tuple[nn.Module, list[float]]:
    """A small model trained to guess the token `shift` places on: the model and its training losses."""
    torch.manual_seed(seed)
    pupil, losses = GPT2(small).to(device), []
    for _ in range(steps):
        window = random_batch(train_stream, 12, 47)  # (12, 48)
        logits = pupil(window[:, : 48 - shift])
        loss = cross_entropy(logits, window[:, shift:]).mean()
        pupil.zero_grad()
        loss.backward()
        update(pupil)
        losses.append(loss.item())
    return pupil, losses


@torch.no_grad()
def descend(pupil: nn.Module) -> None:
    """Plain gradient descent, the simplest optimizer there is: a step against the gradient."""
    for parameter in pupil.parameters():
        parameter -= 0.3 * parameter.grad  # with 0.5 it overshoots, and each run then ends elsewhere


@torch.no_grad()
def true_loss(pupil: nn.Module) -> float:
    """Loss on held-out text at what we really want: the next token."""
    window = valid_windows[:16, :49].to(device)
    return cross_entropy(pupil(window[:, :-1]), window[:, 1:]).mean().item()


def smooth(values: list[float]) -> list[float]:
    """Running mean over eight steps."""
    return [sum(values[max(0, i - 7) : i + 1]) / len(values[max(0, i - 7) : i + 1]) for i in range(len(values))]


pupils = {
    name: train_small(240, descend, shift)
    for name, shift in {"shifted once (right)": 1, "not shifted": 0, "shifted twice": 2}.items()
}
figure, axes = plt.subplots(figsize=(7, 3.2))
for (name, (_, losses)), colour in zip(pupils.items(), (BLUE, ORANGE, PURPLE), strict=True):
    axes.plot(smooth(losses), color=colour, label=name)
draw_baselines(axes)
axes.set(xlabel="step", ylabel="training loss (nats per token)", ylim=(0, None), title="Three models, one right")
axes.legend(loc="lower left")
plt.show()
told = {name: (losses[-1], true_loss(pupil)) for name, (pupil, losses) in pupils.items()}
right_told, none_told, twice_told = told.values()
check(
    f"without a shift the training loss falls to {none_told[0]:.2f}, which looks wonderful, but at guessing the next "
    f"token the loss is {none_told[1]:.2f}: the model has learned to repeat its input",
    none_told[0] < right_told[0] - 1 and none_told[1] > right_told[1] + 1,
)
check(
    f"shifted twice it is {twice_told[0]:.2f} instead of {right_told[0]:.2f}, which nobody would notice; at the next "
    f"token {twice_told[1]:.2f} instead of {right_told[1]:.2f}",
    twice_told[1] > right_told[1],
)

# %% [markdown]
# ## 10 AdamW and Muon by hand
#
# The step above was plain gradient descent: $w \leftarrow w - \eta g$. Its weakness: gradients of different weights
# differ in size by orders of magnitude, and one learning rate $\eta$ has to do for all. **AdamW** keeps two running
# averages, of g and of g². The first divided by the root of the second makes the step about equally large for every
# weight:
#
# $$m \leftarrow \beta_1 m + (1-\beta_1) g \qquad s \leftarrow \beta_2 s + (1-\beta_2) g^2 \qquad
# w \leftarrow w - \eta\lambda w - \eta\, \frac{m / (1-\beta_1^t)}{\sqrt{s / (1-\beta_2^t)} + \epsilon}$$
#
# The averages begin at 0 and are too small at first; dividing by $1-\beta^t$ corrects that. $\eta\lambda w$ is the
# **weight decay**: a pull towards 0, apart from the gradient (that is the W in AdamW).


# %%
class AdamW:
    """Adam with weight decay apart from the gradient."""

    def __init__(self, parameters, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0):
        self.parameters, self.lr, self.betas, self.eps, self.decay = list(parameters), lr, betas, eps, weight_decay
        self.mean = [torch.zeros_like(w) for w in self.parameters]
        self.square = [torch.zeros_like(w) for w in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """One update at the learning rate `lr * factor`."""
        self.steps += 1
        lr, (beta1, beta2) = self.lr * factor, self.betas
        for w, m, s in zip(self.parameters, self.mean, self.square, strict=True):
            m.mul_(beta1).add_(w.grad, alpha=1 - beta1)
            s.mul_(beta2).addcmul_(w.grad, w.grad, value=1 - beta2)
            w.mul_(1 - lr * self.decay)
            m_hat, s_hat = m / (1 - beta1**self.steps), s / (1 - beta2**self.steps)
            w.sub_(lr * m_hat / (s_hat.sqrt() + self.eps))


# %% [markdown]
# **Muon** looks at a weight matrix as a whole. Every matrix stretches some directions more than others; by how much,
# its **singular values** say (S in its singular value decomposition, $M = U S V^\top$). In a gradient matrix a few
# directions usually dominate; Muon keeps all directions of its running average (the **momentum**) but makes them
# **equally long**: the step is $U V^\top$. Computing U and V is slow, so a polynomial is applied five times instead,
# which drives every singular value towards 1. It needs only matrix products.
#
# Only the matrices inside the blocks are updated in this way. Embeddings are tables of rows, and norms and biases are
# vectors: AdamW takes them. `c_attn` holds three matrices side by side, so each third is treated as a matrix of its
# own.


# %%
def orthogonalize(x: Tensor) -> Tensor:
    """Replace the singular values of each matrix (..., rows, columns) by numbers near 1."""
    if x.shape[-2] > x.shape[-1]:  # lay it on its side: the products are then smaller
        return orthogonalize(x.mT).mT
    x = x.bfloat16() if x.is_cuda else x  # precise enough, and twice as fast there; slow on many CPUs
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # now every singular value is at most 1
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return x


class Muon:
    """Momentum, made equally long in every direction (Jordan et al., 2024)."""

    def __init__(self, named_parameters, lr, momentum=0.95, weight_decay=0.0):
        self.parameters, self.lr, self.momentum, self.decay = dict(named_parameters), lr, momentum, weight_decay
        self.mean = {name: torch.zeros_like(w) for name, w in self.parameters.items()}

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """One update at the learning rate `lr * factor`."""
        lr = self.lr * factor
        for name, w in self.parameters.items():
            m = self.mean[name]
            m.mul_(self.momentum).add_(w.grad, alpha=1 - self.momentum)
            ahead = (1 - self.momentum) * w.grad + self.momentum * m  # Nesterov: look one step ahead
            w.mul_(1 - lr * self.decay)
            parts = 3 if name.endswith("c_attn.weight") else 1
            for weight, part in zip(w.chunk(parts, dim=1), ahead.chunk(parts, dim=1), strict=True):
                rows, columns = part.shape
                weight.sub_(lr * max(1, columns / rows) ** 0.5 * orthogonalize(part))


def make_optimizers(model: nn.Module, name: str, lr: float, weight_decay: float) -> list:
    """The optimizers that share the parameters of a GPT-2 between them."""
    named = dict(model.named_parameters())
    matrices = {n: w for n, w in named.items() if w.ndim == 2 and ".h." in n}
    tables = {n: w for n, w in named.items() if w.ndim == 2 and ".h." not in n}  # wte and wpe
    vectors = {n: w for n, w in named.items() if w.ndim == 1}  # biases and norms
    if name == "adamw":
        decaying = [*tables.values(), *matrices.values()]  # no reason to pull a bias or a norm's scale towards 0
        return [AdamW(decaying, lr, weight_decay=weight_decay), AdamW(vectors.values(), lr)]
    width = tables["transformer.wte.weight"].shape[1]  # a step of wte moves the logits in proportion to it
    return [
        Muon(matrices, lr, weight_decay=weight_decay),
        AdamW(tables.values(), lr * min(1, 256 / width), eps=1e-10, weight_decay=weight_decay),
        AdamW(vectors.values(), lr / 2, eps=1e-10),
    ]


# %% [markdown]
# First the comparison with the package: three steps on a copy of the tiny model. The gradients are made up and the
# same for both, because some true gradients are nothing but rounding errors around 0, and AdamW makes a full step of
# any gradient, however small.


# %%
def three_steps(model: nn.Module, optimizers: list) -> Tensor:
    """All weights after three steps with made-up gradients, as one long vector."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step(factor=0.5)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def their_three_steps(name: str, lr: float) -> Tensor:
    theirs = twin(gpt2.GPT2(their_tiny), tiny_model)
    together = gpt2.training.optimizers.build_optimizer(theirs, name, lr, weight_decay=0.1, dtype=torch.float32)
    return three_steps(theirs, [together])


for name, lr in (("adamw", 2e-3), ("muon", 0.02)):
    ours = twin(GPT2(tiny), tiny_model)
    after_ours = three_steps(ours, make_optimizers(ours, name, lr, weight_decay=0.1))
    same(f"{name}, three steps (weights)", after_ours, lambda name=name, lr=lr: their_three_steps(name, lr))

# %% [markdown]
# **Predict.** The small model of section 9 again, with each of the three optimizers, on the same batches. Which one is
# lowest after 90 steps? By how much?


# %%
def with_optimizers(name: str, lr: float) -> Callable[[nn.Module], None]:
    """An update for `train_small` that makes its optimizers when it first sees the model."""
    made: list = []

    def update(pupil: nn.Module) -> None:
        if not made:
            made.extend(make_optimizers(pupil, name, lr, 0.0))
        for optimizer in made:
            optimizer.step()

    return update


matrix = torch.randn(64, 64) @ torch.randn(64, 64)
values_before, values_after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(orthogonalize(matrix).float())
races = {
    "plain gradient descent": smooth(pupils["shifted once (right)"][1][:90]),
    "AdamW": smooth(train_small(90, with_optimizers("adamw", 4e-3))[1]),
    "Muon": smooth(train_small(90, with_optimizers("muon", 0.02))[1]),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
left.plot(values_before / values_before.max(), color=ORANGE, label="of a gradient-like matrix")
left.plot(values_after / values_after.max(), color=BLUE, label="after Muon's polynomial")
left.set(xlabel="singular value, from the largest", ylabel="share of the largest", title="Muon: all directions count",
         ylim=(0, None))  # fmt: skip
left.legend(loc="upper right")
for (name, losses), colour in zip(races.items(), (GREY, ORANGE, BLUE), strict=True):
    right.plot(losses, color=colour, label=name)
draw_baselines(right)
right.set(xlabel="step", ylabel="training loss (nats per token)", title="The same model, the same batches")
right.legend(loc="center right", bbox_to_anchor=(1, 0.75), fontsize=8)  # clear of the grey lines
plt.show()
ends = {name: losses[-1] for name, losses in races.items()}
best = min(ends, key=ends.__getitem__)
check(
    f"after 90 steps plain descent is at {ends['plain gradient descent']:.2f}, AdamW at {ends['AdamW']:.2f}, Muon at "
    f"{ends['Muon']:.2f}: {best} is ahead",
    max(ends["AdamW"], ends["Muon"]) < ends["plain gradient descent"],
)
check(
    f"the middle singular value was {values_before.median() / values_before.max():.2f} of the largest, and is "
    f"{values_after.median() / values_after.max():.2f} of it after the polynomial",
    values_after.median() / values_after.max() > 2 * values_before.median() / values_before.max(),
)


# %% [markdown]
# **The learning rate over the run.** Small at first, while the averages are still guesses (the warm-up), and then
# falling to zero, so that the weights settle.


# %%
def learning_rate_factor(progress: float) -> float:
    """Factor on the learning rate when the share `progress` of the run is done."""
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)


grid = torch.linspace(0, 1, 101).tolist()
same(
    "learning-rate schedule",
    torch.tensor([learning_rate_factor(p) for p in grid]),
    lambda: torch.tensor([gpt2.training.schedule.learning_rate_factor(p, warmup, "linear") for p in grid]),
)


# %% [markdown]
# ## 11 Training
#
# A **batch** is B windows of T + 1 tokens, cut at random places of the stream. Such a window may begin in the middle
# of a story and run into the next; the model learns that `<|endoftext|>` starts something new. (The package does
# better: it packs whole documents and lets no token see another document.)
#
# One **step**: forward, loss, backward, update. The loss is the mean over all B × T guesses. At regular times we
# measure the loss on the same windows of held-out text, and put a copy of the weights aside, to look back later.
#
# A practical matter first. PyTorch spreads its work over all CPU cores. If other programs keep them busy, the threads
# wait for each other, and one thread alone can be much faster. So we measure, and keep what is better.


# %%
@torch.no_grad()
def validation_loss() -> float:
    """Mean loss on fixed windows of the held-out text."""
    model.eval()
    losses = [
        cross_entropy(model(windows[:, :-1]), windows[:, 1:]).mean().item()
        for windows in valid_windows.to(device).split(batch_size)
    ]
    model.train()
    return sum(losses) / len(losses)


def step_time(threads: int) -> float:
    """Seconds for forward and backward with so many threads."""
    torch.set_num_threads(threads)
    for _ in range(2):  # the first is a warm-up
        started = time.perf_counter()
        windows = random_batch(train_stream)
        cross_entropy(model(windows[:, :-1]), windows[:, 1:]).mean().backward()
    return time.perf_counter() - started


if not gpu:
    times = {threads: step_time(threads) for threads in {torch.get_num_threads(), 1}}
    torch.set_num_threads(min(times, key=times.__getitem__))
    print(", ".join(f"{threads} threads: {took:.2f} s" for threads, took in sorted(times.items())))
    print("training with", torch.get_num_threads())

# %% [markdown]
# **Predict.** The loss begins at ln V. Which of the three baselines will it pass, and how early in the run? The first
# stretch is always the steepest: what is it that the model learns first?

# %%
history: dict[str, list[tuple[float, float]]] = {"training": [], "held out": []}
snapshots: list[tuple[int, dict[str, Tensor]]] = []


def keep_snapshot(step: int) -> None:
    snapshots.append((step, {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}))


def train(model: GPT2, optimizers: list) -> int:
    """Train until the time or the epochs are over; returns the number of steps."""
    total_steps = math.ceil(epochs * len(train_stream) / (batch_size * context_length))
    started, step, progress, reports, recent = time.perf_counter(), 0, 0.0, 0, []
    keep_snapshot(0)
    with tqdm(
        total=100, unit="%", file=sys.stdout, leave=False, bar_format="{l_bar}{bar}| {elapsed}<{remaining}"
    ) as bar:
        while progress < 1:
            windows = random_batch(train_stream)
            loss = cross_entropy(model(windows[:, :-1]), windows[:, 1:]).mean()  # forward
            model.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step(learning_rate_factor(progress))
            recent.append(loss.detach())
            step += 1
            progress = (time.perf_counter() - started) / seconds if seconds else step / total_steps
            bar.update(min(100, round(100 * progress)) - bar.n)
            if progress >= (reports + 1) / 20 or progress >= 1:
                reports = int(20 * progress)
                history["training"].append((step, torch.stack(recent).mean().item()))
                history["held out"].append((step, validation_loss()))
                recent = []
                if progress >= len(snapshots) / 4:
                    keep_snapshot(step)
                if reports % 4 == 0 or progress >= 1:
                    bar.write(
                        f"step {step:5}   training loss {history['training'][-1][1]:.3f}"
                        f"   held-out loss {history['held out'][-1][1]:.3f}",
                        file=sys.stdout,
                    )
    return step


torch.manual_seed(seed)
model = GPT2(config).to(device)
started = time.perf_counter()
steps = train(model, make_optimizers(model, optimizer_name, learning_rate, weight_decay))
took, seen = time.perf_counter() - started, steps * batch_size * context_length
print(
    f"\n{steps:,} steps in {took:.0f} s: {seen:,} tokens, {seen / took:,.0f} per second, "
    f"{seen / len(train_stream):.1f} times the text"
)

# %%
figure, axes = plt.subplots(figsize=(7.4, 3.6))
for (label, points), colour in zip(history.items(), (ORANGE, BLUE), strict=True):
    axes.plot(*zip((0, untrained), *points, strict=True), marker="o", markersize=3, color=colour, label=label)
draw_baselines(axes)
axes.set(xlabel="step", ylabel="loss (nats per token)", title="Learning to guess the next token")
axes.legend(loc="center right", bbox_to_anchor=(1, 0.75))
plt.show()
final = history["held out"][-1][1]
passed = {
    name: next((step for step, loss in history["held out"] if loss < value), None) for name, value in baselines.items()
}
check(
    f"the held-out loss fell from {untrained:.2f} to {final:.2f}; "
    + "; ".join(
        f"“{name}” was {f'beaten by step {step:,}' if step else 'not beaten'}" for name, step in passed.items()
    ),
    final < untrained,
)

# %% [markdown]
# First the model learns which tokens are frequent, then which follow which, then what needs more of the past. If the
# held-out loss stops falling while the training loss goes on, the model is beginning to learn its text by heart: it
# needs more text, not more time.
#
# A loss per token depends on how long the tokens are. **Bits per byte** does not, so models with different tokenizers
# can be compared by it: how many bits does the model need, on average, for one byte of text that it has never seen?
# Each document is scored on its own. If it is longer than the context, the window moves on by half of it, and only
# tokens that were not scored before count.


# %%
@torch.no_grad()
def bits_per_byte(model: GPT2, documents: list[str]) -> float:
    """Bits needed per byte of text, each document on its own."""
    limit, nats, num_bytes = model.config.context_length, 0.0, 0
    for text in documents:
        ids = torch.tensor([tokenizer.end_of_text, *tokenizer.encode(text), tokenizer.end_of_text], device=device)
        start = scored = 0
        while scored < len(ids) - 1:
            window = ids[start : start + limit + 1]
            losses = cross_entropy(model(window[None, :-1])[0], window[1:])
            nats += losses[scored - start :].sum().item()
            scored, start = start + len(window) - 1, start + max(1, limit // 2)
        num_bytes += len(text.encode())
    return nats / math.log(2) / num_bytes


model.eval()
test_documents = held_out[:100]
bits = bits_per_byte(model, test_documents)
check(f"{bits:.3f} bits per byte on {len(test_documents)} held-out documents; as plain text, a byte takes 8", bits < 8)


def their_bits() -> Tensor:
    their_model = twin(gpt2.GPT2(gpt2.GPT2Config(**asdict(config))), model).to(device)
    ids = [torch.tensor([tokenizer.end_of_text, *tokenizer.encode(text)]).numpy() for text in test_documents]
    sizes = [len(text.encode()) for text in test_documents]
    score = gpt2.evaluation.bits_per_byte.score_documents(their_model, ids, sizes, tokenizer.end_of_text)
    return torch.tensor(score.bits_per_byte)


same("bits per byte", torch.tensor(bits), their_bits, tolerance=1e-2 if gpu else 1e-4)

# %% [markdown]
# ## 12 Temperature and sampling
#
# To write, the model guesses the next token, we choose one, append it, and ask again. **Temperature** decides how
# bold the choice is: the logits are divided by it before the softmax. Below 1 the likely tokens gain, above 1 the
# unlikely ones. At 0 the division is impossible, so 0 is *defined* as taking the likeliest token ("greedy").
#
# How bold is bold? The **entropy** of a distribution is the loss, in nats, to expect from tokens drawn from it. It is
# easiest to read as a power of e, $e^{\text{entropy}}$: as if one had to choose among that many equally likely tokens.
#
# **Predict.** From among how many tokens does the model choose at temperature 1, as if? And at 2? Many demonstrations
# compute with the 50 likeliest tokens only; how wrong is that at temperature 2?


# %%
def choose(logits: Tensor, temperature: float) -> Tensor:
    """One next token for each row: (B, V) -> (B,)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    return torch.multinomial(softmax(logits.float() / temperature), num_samples=1).squeeze(-1)


def effective(probabilities: Tensor) -> float:
    """e to the entropy: as if among so many equally likely tokens."""
    return (-(probabilities * probabilities.clamp(min=1e-30).log()).sum()).exp().item()


prompt = "One day, a little girl named"
with torch.no_grad():
    logits = model(torch.tensor([tokenizer.encode(prompt)], device=device))[0, -1].cpu()  # (V,)
likeliest = logits.topk(8).indices
temperatures = (0.5, 0.8, 1.0, 1.5, 2.0)
spread_over = {temperature: softmax(logits / temperature) for temperature in temperatures}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.4), width_ratios=(1.4, 1))
for shade, (temperature, chances) in zip((1.0, 0.85, 0.7, 0.5, 0.35), spread_over.items(), strict=True):
    left.plot(range(1, vocab_size + 1), chances.sort(descending=True).values, color=RAMP(shade),
              label=f"T = {temperature}: as if among {effective(chances):,.1f}")  # fmt: skip
left.set(xscale="log", yscale="log", ylim=(1e-8, 1.5), xlabel="rank of the token", ylabel="probability",
         title=f"All {vocab_size:,} tokens after “{prompt}”")  # fmt: skip
left.legend(fontsize=8)
for row, (temperature, colour) in enumerate(((0.5, RAMP(1.0)), (1.0, RAMP(0.7)), (2.0, RAMP(0.35)))):
    right.barh([i + 0.27 * (row - 1) for i in range(8)], spread_over[temperature][likeliest], 0.27, color=colour,
               label=f"T = {temperature}")  # fmt: skip
right.set_yticks(range(8), [repr(tokenizer.decode([i])) for i in likeliest.tolist()])
right.invert_yaxis()
right.grid(axis="y", visible=False)
right.set(xlabel="probability", title="The eight likeliest")
right.locator_params(axis="x", nbins=5)
right.legend(loc="lower right")
plt.show()
widths_of = [effective(chances) for chances in spread_over.values()]
top50 = softmax(logits.topk(50).values / 2.0)[0].item()
truth = spread_over[2.0].max().item()
check(
    f"the higher the temperature, the wider the choice: as if among {widths_of[0]:.1f}, then {widths_of[2]:.1f} at 1, "
    f"{widths_of[-1]:,.0f} at 2",
    widths_of == sorted(widths_of) and all(abs(c.sum().item() - 1) < 1e-4 for c in spread_over.values()),
)
check(
    f"computed over the 50 likeliest alone, the first would have {top50:.3f} at temperature 2; over all it has "
    f"{truth:.3f}, {top50 / truth:.1f} times less",
    top50 > truth,
)

# %% [markdown]
# **When the context is full.** There are only `context_length` positions, so a longer text does not fit. We then keep
# the last half of the window and go on from there; what lies before is forgotten. Generation also stops at
# `<|endoftext|>`: the story is over.


# %%
def generate(model: GPT2, context: Tensor, max_new_tokens: int, temperature: float) -> Tensor:
    """Continue each row of `context` (B, T) by up to `max_new_tokens` ids."""
    limit, end = model.config.context_length, model.config.eos_token_id
    ids, start = context.to(model.transformer.wte.weight.device), 0
    finished = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    was_training = model.training
    model.eval()  # no dropout
    for _ in range(max_new_tokens):
        if ids.shape[1] - start > limit:
            start = ids.shape[1] - max(1, limit // 2)
        new = choose(model(ids[:, start:])[:, -1], temperature)  # only the last position's logits matter
        if end is not None:
            new[finished] = end  # rows that are done are filled up
            finished |= new == end
        ids = torch.cat([ids, new[:, None]], dim=1)
        if finished.all():
            break
    model.train(was_training)
    return ids.to(context.device)


beginning = few_ids[:, :5]
longer = tiny_model.generate(beginning, max_new_tokens=40, temperature=0)  # far past its context
print(f"{beginning.shape[1]} + 40 tokens with a context of {tiny.context_length}: {tuple(longer.shape)}")
same(
    "generation (greedy; there with a KV cache)",
    longer,
    lambda: twin(gpt2.GPT2(their_tiny), tiny_model).generate(beginning, max_new_tokens=40, temperature=0),
    tolerance=0,
)

# %% [markdown]
# Now the model speaks:

# %%
context = torch.tensor([tokenizer.encode("Once upon a time")], dtype=torch.long)
output = model.generate(context, max_new_tokens=100, temperature=0.8)
print(tokenizer.decode(output[0].tolist()))

# %% [markdown]
# The same beginning at three temperatures; and the likeliest continuation at each of the moments of the training that
# we put aside.
#
# **Predict.** Which temperature plays safe, which falls apart? What does a model say that has learned nothing?

# %%
surprises = {}
for temperature in (0, 0.6, 1.5):
    output = model.generate(context, max_new_tokens=40, temperature=temperature)
    print(f"temperature {temperature}: {tokenizer.decode(output[0].tolist())!r}")
    with torch.no_grad():
        losses = cross_entropy(model(output[:, :-1].to(device)), output[:, 1:].to(device))
    surprises[temperature] = losses[0, context.shape[1] - 1 :].mean().item()
print()
earlier, kinds = GPT2(config), []
for step, weights in snapshots:
    earlier.load_state_dict(weights)
    output = earlier.generate(context, max_new_tokens=16, temperature=0)
    print(f"after step {step:5,}: {tokenizer.decode(output[0].tolist())!r}")
    kinds.append(len(set(output[0, context.shape[1] :].tolist())))
check(
    "the bolder, the less the model itself would have expected what it wrote: "
    + ", ".join(f"{loss:.1f} nats per token at temperature {t}" for t, loss in surprises.items()),
    surprises[0] < surprises[0.6] < surprises[1.5],
)
check(
    f"of 16 tokens the untrained model writes {kinds[0]} different one{'s' if kinds[0] > 1 else ''}, the trained one "
    f"{kinds[-1]}",
    kinds[0] <= 3,
)

# %% [markdown]
# A model that has learned nothing says its last word over and over. That is no accident: the logits compare the stream
# with every embedding, the stream is still little more than the embedding of the last token, and a vector is most like
# itself.

# %% [markdown]
# ## 13 The KV cache
#
# `generate` computes the whole window again for every new token. But keys and values of the past never change: the
# mask sees to it that no token knows what comes after it. So they can be kept, and each new token costs the work of
# one. The new token needs no mask either: everything in the cache is its past.
#
# It does need its **position**. Since it comes alone, as a text of length one, it is easy to give it position 0 each
# time, and several well-known programs have shipped exactly that mistake. We make it on purpose, and measure how far
# the guesses move away: the **divergence** of two distributions is the loss, in nats, of guessing by the one when the
# other is right, beyond what the right one would have lost.
#
# **Predict.** With that mistake, will the model fail loudly, or keep talking? When will it begin to show?


# %%
@torch.no_grad()
def next_logits(model: GPT2, token: Tensor, cache: list, position: int) -> Tensor:
    """Logits after one more token (B,), with the keys and values of those before; the cache grows."""
    network = model.transformer
    x = (network.wte.weight[token] + network.wpe.weight[position])[:, None]  # (B, 1, D)
    for layer, block in enumerate(network.h):
        q, k, v = block.attn.queries_keys_values(block.ln_1(x))  # (B, H, 1, d)
        if len(cache) == layer:
            cache.append((k, v))
        else:
            cache[layer] = tuple(torch.cat(pair, dim=2) for pair in zip(cache[layer], (k, v), strict=True))
        keys, values = cache[layer]
        z = softmax(q @ keys.transpose(-2, -1) / math.sqrt(q.shape[-1])) @ values  # no mask: all is past
        x = x + block.attn.c_proj(z.transpose(1, 2).reshape(x.shape))
        x = x + block.mlp(block.ln_2(x))
    return (network.ln_f(x) @ network.wte.weight.T)[:, 0]


text = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(" ".join(held_out[:3]))]], device=device)[:, :64]
with torch.no_grad():
    whole = model(text)  # (1, T, V): every position at once
prompt_length = 16
right_cache, wrong_cache, one_by_one, mistaken = [], [], [], []
for t in range(text.shape[1]):
    one_by_one.append(next_logits(model, text[:, t], right_cache, t))
    mistaken.append(next_logits(model, text[:, t], wrong_cache, t if t < prompt_length else 0))
one_by_one, mistaken = torch.stack(one_by_one, 1), torch.stack(mistaken, 1)


def divergence(right: Tensor, wrong: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the next token's distribution at each position, in nats: (T,)."""
    logs, others = (x.double() - x.double().logsumexp(-1, keepdim=True) for x in (right[0], wrong[0]))
    return (logs.exp() * (logs - others)).sum(-1).cpu()


harm = divergence(whole, mistaken)
lengths = torch.arange(1, text.shape[1] + 1)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3))
left.plot(lengths, lengths.cumsum(0), color=ORANGE, label="the whole window each time")
left.plot(lengths, lengths, color=BLUE, label="with a cache")
left.set(xlabel="tokens of text", ylabel="token vectors computed", title="Work", yscale="log")
left.legend()
right.plot(divergence(whole, one_by_one).clamp(min=0), color=BLUE, label="right position")
right.plot(harm, color=ORANGE, label="position 0 for each new token")
right.axvline(prompt_length - 0.5, color=GREY, linestyle=":", linewidth=1)
right.annotate("prompt", (prompt_length - 1, 0.5 * harm.max().item()), fontsize=8, color=MUTED, ha="right")
right.set(xlabel="position", ylabel="divergence from the model\nwithout a cache (nats)", title="The offset bug")
right.set_ylim(0, 1.45 * harm.max().item())
right.legend(loc="upper right", fontsize=8)
plt.show()
check(
    f"with the cache the logits are the same within {(one_by_one - whole).abs().max():.0e}, and {text.shape[1]} tokens "
    f"take {text.shape[1]} token vectors instead of {int(lengths.sum()):,}",
    (one_by_one - whole).abs().max().item() < (1e-2 if gpu else 1e-3),
)
check(
    "with the wrong position nothing fails and nothing warns; the distributions are off by "
    f"{harm[prompt_length:].mean():.2f} "
    f"nats on average after the prompt, and by {harm[:prompt_length].abs().max():.0e} within it",
    harm[prompt_length:].mean().item() > 10 * harm[:prompt_length].abs().max().item(),
)

# %% [markdown]
# ## 14 Save and load
#
# Two files: the tokenizer, and the weights. They belong together: with another vocabulary the ids mean something
# else.
#
# **Predict.** How large will the file of weights be? (A number takes four bytes.)

# %%
folder = Path("models")
folder.mkdir(exist_ok=True)
tokenizer.bpe.save(str(folder / "tokenizer.json"))
torch.save(model.state_dict(), folder / "gpt2_model.pt")
for file in (folder / "tokenizer.json", folder / "gpt2_model.pt"):
    print(f"{file.as_posix()}  {file.stat().st_size / 1e6:.1f} MB")
size = (folder / "gpt2_model.pt").stat().st_size
check(
    f"{totals['ours']:,} numbers of four bytes are {4 * totals['ours'] / 1e6:.1f} MB, and the file has little more",
    1 <= size / (4 * totals["ours"]) < 1.2,
)

# %% [markdown]
# Read them back, as a new session would, and check that it is the same model. The names of our parameters and the
# layout of our weights are GPT-2's, so the package reads the same two files.

# %%
loaded = GPT2.load(folder / "gpt2_model.pt")
loaded_tokenizer = Tokenizer(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))
model = model.cpu()
with torch.no_grad():
    check("loaded, it gives the same logits to the last bit", torch.equal(loaded(context), model(context)))
check("and the same ids", loaded_tokenizer.encode(training[0]) == tokenizer.encode(training[0]))
if HAVE_PACKAGE:
    package_model, package_tokenizer = gpt2.load("models/gpt2_model.pt")
    assert package_tokenizer.encode(training[0]) == tokenizer.encode(training[0])
with torch.no_grad():
    same(
        "model, loaded from our file (logits)", loaded(context), lambda: package_model(context).detach(), tolerance=1e-4
    )
same(
    "generation with the trained model (greedy)",
    loaded.generate(context, max_new_tokens=40, temperature=0),
    lambda: package_model.generate(context, max_new_tokens=40, temperature=0),
    tolerance=0,
)

# %% [markdown]
# ## 15 Looking inside
#
# Nothing in a transformer is hidden: every inner value is a tensor that we can stop and look at. By hand, that is the
# forward pass written out once more, keeping the attention patterns. Here is our own model, reading one sentence.
#
# **Predict.** In each square a row is a token that looks, a column a token that is looked at. What would a head look
# like that always looks at the token before? One that has nothing to do?


# %%
@torch.no_grad()
def walk(model: GPT2, ids: Tensor, without: tuple = ()) -> tuple[Tensor, Tensor]:
    """Logits (B, T, V) and all patterns (B, L, H, T, T); heads (layer, head) in `without` add nothing."""
    x, patterns = model.transformer.embed(ids), []
    for layer, block in enumerate(model.transformer.h):
        q, k, v = block.attn.queries_keys_values(block.ln_1(x))
        patterns.append(attention_pattern(q, k))
        z = patterns[-1] @ v
        for number in (head for where, head in without if where == layer):
            z[:, number] = 0
        x = x + block.attn.c_proj(z.transpose(1, 2).reshape(x.shape))
        x = x + block.mlp(block.ln_2(x))
    return model.transformer.ln_f(x) @ model.transformer.wte.weight.T, torch.stack(patterns, 1)


sentence = "Once upon a time, there was a little dog. The dog"
ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(sentence)]])[:, :context_length]
walked, patterns = walk(model, ids)
patterns = patterns[0]  # (L, H, T, T)
shown = min(num_heads, 4)
figure, grid = plt.subplots(num_layers, shown, figsize=(1.75 * shown + 0.6, 1.8 * num_layers), squeeze=False)
for layer in range(num_layers):
    for head in range(shown):
        image = heat(grid[layer, head], hide_future(patterns[layer, head]).sqrt(), f"head {layer}.{head}")
        grid[layer, head].set(xticks=[], yticks=[])
figure.supylabel("from (the token that looks)", color=MUTED, fontsize=9)
figure.supxlabel("to (the token that is looked at)", color=MUTED, fontsize=9)
bar = figure.colorbar(image, ax=grid, shrink=0.5, ticks=[0, 0.5, 1], label="attention")
bar.ax.set_yticklabels(["0", "0.25", "1"])
plt.show()
with torch.no_grad():
    check(
        "the walk is the forward pass, its rows sum to 1, and nothing looks at the future",
        torch.allclose(walked, model(ids), atol=1e-3)
        and (patterns.sum(-1) - 1).abs().max().item() < 1e-5
        and patterns.triu(1).abs().max().item() == 0,
    )
previous = patterns.diagonal(offset=-1, dim1=-2, dim2=-1)[..., 1:].mean(-1)  # (L, H)
first_token = patterns[:, :, 1:, 0].mean(-1)
layer, head = divmod(previous.argmax().item(), num_heads)
rest = divmod(first_token.argmax().item(), num_heads)
check(
    f"head {layer}.{head} looks most at the previous token, with {previous[layer, head]:.0%} of its weight (a stripe "
    f"beside the diagonal); head {rest[0]}.{rest[1]} rests most on the first, with {first_token.max():.0%} (a dark "
    "first column: there a head looks that has nothing to do)",
    previous.max().item() > 1 / ids.shape[1],
)

# %% [markdown]
# A model that was trained for a few minutes is too weak to dissect. So from here on the patient is the **demo
# model**, and the instruments are the package's, which do what `walk` did for every value there is. Each picture names
# the identity that proves its numbers.
#
# The question for this section: after *"Once upon a time there was a little girl named Lily. One day,"*, why does the
# model go on with "she" or "Lily" and not with "he"?
#
# **Predict.** How often does each token look at the very first one? At which layer is the answer there?

# %%
if HAVE_PACKAGE:
    looked = gpt2.inspection.run(demo, demo_tokenizer, "Once upon a time there was a little girl named Lily. One day,")
    print(looked.checks)
view("all heads of the demo model", lambda: looked.attention())

# %% [markdown]
# **The logit lens.** The final norm and the output matrix can be put after *any* layer, to see what the model would
# say if it ended there. Read each column upwards.

# %%
view("the logit lens", lambda: looked.logit_lens())

# %% [markdown]
# **Who did it?** The logits are a linear function of the stream, and the stream is a sum. So a logit can be divided,
# without any approximation, among all that was added: the embeddings, every head, every MLP.
#
# **Predict.** "she" against "he": is it one head, or many parts?

# %%
view("what each part adds to a logit", lambda: looked.dla(" she", against=" he", unit="head"))

# %% [markdown]
# **What is each part worth?** Adding to a logit is one thing; being needed is another. So we **ablate** each head and
# each MLP: we take it out (its output becomes the average over many stories) and see how much worse the model guesses
# on real text. A single text proves little, so each figure has a 95 % interval: where it would lie for most other
# choices of stories.
#
# **Predict.** Heads or MLPs: which will be missed more? Will any part turn out to be useless?

# %%
view(
    "the worth of each head and MLP",
    lambda: gpt2.inspection.ablation_grid(demo, demo_tokenizer, held_out[:24]),
)

# %% [markdown]
# **What is near what?** Every token is a vector. Which tokens point the same way as " dog"? The model was told nothing
# of animals; that these words occur in the same places is all it ever saw.

# %%
view("neighbours of a token", lambda: gpt2.inspection.neighbours(demo, demo_tokenizer, " dog", k=10))

# %%
view("a map of the frequent tokens", lambda: gpt2.inspection.embedding_map(demo, demo_tokenizer))

# %% [markdown]
# ## 16 An induction head is born
#
# The most famous thing ever found inside transformers (Elhage et al., 2021; Olsson et al., 2022): heads that look for
# the last time the present token occurred, and at *what came after it*. "… Mr D ursley … Mr D" → "ursley". It is the
# simplest way to learn from the text at hand instead of from training.
#
# We can watch one being born. The texts: a stretch of 4 to 16 random tokens, repeated over and over. The first time
# round nobody can know what comes; afterwards everybody can, who finds the earlier place. The length differs from text
# to text, so that looking a fixed number of tokens back, which needs no matching at all, does not help. A head's
# **induction score** is the share of its attention that goes to what followed the present token before.
#
# **Predict.** Two models, alike but for their depth: one layer and two. Will both learn it? Gradually, or suddenly?

# %%
WORDS, SPAN, BIRTH_STEPS, TESTS = 32, 32, 220, 64


def repeats(generator: torch.Generator, count: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Texts (count, SPAN), their next tokens, and where these can be known (from the second round on)."""
    period = torch.randint(4, 17, (count, 1), generator=generator)
    stretch = torch.rand(count, WORDS, generator=generator).argsort(dim=1)  # different tokens
    place = torch.arange(SPAN + 1)[None]
    texts = stretch.gather(1, place % period)
    return texts[:, :-1], texts[:, 1:], place[:, 1:] > period


test_ids, test_next, test_known = repeats(torch.Generator().manual_seed(99), TESTS)
asked = test_known & (torch.arange(SPAN) > 0)
answer_at = torch.zeros(TESTS, SPAN, SPAN, dtype=torch.bool)  # [text, query, key]: the key's token came before as now
answer_at[:, :, 1:] = (test_ids[:, :, None] == test_ids[:, None, :])[:, :, :-1]
answer_at &= torch.ones(SPAN, SPAN, dtype=torch.bool).tril()
by_chance = (answer_at.float().sum(-1) / torch.arange(1, SPAN + 1))[asked].mean().item()


def examine(pupil: GPT2, without: tuple = ()) -> tuple[float, Tensor, Tensor]:
    """Loss where the answer can be known; each head's induction score and its weight on the previous token: (L, H)."""
    logits, patterns = walk(pupil, test_ids, without)
    loss = cross_entropy(logits, test_next)[asked].mean().item()
    score = (patterns * answer_at[:, None, None]).sum(-1)  # (B, L, H, T)
    score = (score * asked[:, None, None]).sum((0, 3)) / asked.sum()
    return loss, score, patterns.diagonal(-1, -2, -1).mean((0, 3))


def raise_model(layers: int) -> tuple[GPT2, list[tuple[int, float, float]]]:
    """A model trained on repeats, and (step, loss, best induction score) on the way."""
    torch.manual_seed(seed)
    pupil = GPT2(GPT2Config(WORDS, SPAN, 64, layers, 4))
    draws, optimizer, diary = torch.Generator().manual_seed(1), AdamW(pupil.parameters(), 3e-3), []
    for step in range(BIRTH_STEPS + 1):
        if step % 20 == 0:
            loss, score, _ = examine(pupil)
            diary.append((step, loss, score.max().item()))
        texts, following, known = repeats(draws)
        losses = cross_entropy(pupil(texts), following)
        pupil.zero_grad()
        (losses * known).sum().div(known.sum()).backward()
        optimizer.step(min(1.0, (step + 1) / 50))
    return pupil.eval(), diary


born = {layers: raise_model(layers) for layers in (1, 2)}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.2))
for (layers, (_, diary)), colour in zip(born.items(), (ORANGE, BLUE), strict=True):
    at, losses, scores = zip(*diary, strict=True)
    left.plot(at, losses, "o-", markersize=3, color=colour, label=f"{layers} layer{'s' if layers > 1 else ''}")
    right.plot(at, scores, "o-", markersize=3, color=colour)
left.axhline(math.log(WORDS), color=GREY, linestyle=":", linewidth=1.1)
left.annotate("any token", (BIRTH_STEPS, math.log(WORDS)), xytext=(0, 3), textcoords="offset points", ha="right",
              fontsize=8, color=MUTED)  # fmt: skip
left.set(
    xlabel="step", ylabel="loss on the repeats (nats per token)", title="Can it use the repetition?", ylim=(0, None)
)
left.legend(loc="lower left")
right.axhline(by_chance, color=GREY, linestyle=":", linewidth=1.1)
right.annotate("chance", (BIRTH_STEPS, by_chance), xytext=(0, -3), textcoords="offset points", ha="right", va="top",
               fontsize=8, color=MUTED)  # fmt: skip
right.set(
    xlabel="step", ylabel="attention to what followed last time", title="The best head's induction score", ylim=(0, 1)
)
plt.show()
(one_layer, one_diary), (two_layers, two_diary) = born[1], born[2]
(sudden, low), (end, high) = max(
    (((a, x), (b, y)) for (a, _, x), (b, _, y) in zip(two_diary, two_diary[3:], strict=False)),
    key=lambda pair: pair[1][1] - pair[0][1],
)
check(
    f"after {BIRTH_STEPS} steps the loss on repeats is {two_diary[-1][1]:.2f} with two layers, "
    f"{one_diary[-1][1]:.2f} with "
    f"one; the best induction score is {two_diary[-1][2]:.2f} and {one_diary[-1][2]:.2f}, chance is {by_chance:.2f}",
    two_diary[-1][2] > 0.4 and two_diary[-1][2] > 2 * one_diary[-1][2] and two_diary[-1][1] < one_diary[-1][1] - 0.3,
)
check(
    f"it is born suddenly: from step {sudden} to step {end} alone the score goes from {low:.2f} to {high:.2f}",
    high - low > 0.5 * (two_diary[-1][2] - two_diary[0][2]),
)

# %% [markdown]
# Why can one layer not do it? To know that a key is *the token after* the same token, the key must know what came
# before it. A key made from the bare embedding does not. So two heads are needed, one after the other: a **previous
# token head** writes into each place what stood before it, and the induction head in the next layer finds it there.
# The first two pictures show one of each.
#
# **Predict.** If that is true, what happens to the induction head in layer 1 if we remove heads of layer 0?

# %%
_, scores, looks_back = examine(two_layers)
layer, head = divmod(scores.argmax().item(), 4)
removals = {
    "nothing": (),
    **{f"head 0.{h}": ((0, h),) for h in range(4)},
    "all of layer 0": tuple((0, h) for h in range(4)),
}
after_removal = {name: examine(two_layers, heads) for name, heads in removals.items()}
left_over = {name: score[layer, head].item() for name, (_, score, _) in after_removal.items()}
_, two_patterns = walk(two_layers, test_ids[:1])
labels = [str(i) for i in test_ids[0].tolist()]
back = looks_back[0].argmax().item()

figure, (first, second, third) = plt.subplots(1, 3, figsize=(11, 3.9), width_ratios=(1, 1, 1.1))
heat(first, hide_future(two_patterns[0, 0, back]), f"head 0.{back}: the one before")
heat(second, hide_future(two_patterns[0, layer, head]), f"head {layer}.{head}: what followed last time")
for axes in (first, second):
    axes.set_xticks(range(0, SPAN, 2), labels[::2], rotation=90, fontsize=6)
    axes.set_yticks(range(0, SPAN, 2), labels[::2], fontsize=6)
    axes.set(xlabel="to (token)", ylabel="from (token)")
bars = third.barh(list(left_over), list(left_over.values()), color=[GREY, *[BLUE] * 4, ORANGE], height=0.65)
third.bar_label(bars, [f"{value:.2f}" for value in left_over.values()], padding=3, fontsize=8)
third.axvline(by_chance, color=GREY, linestyle=":", linewidth=1.1)
third.invert_yaxis()
third.grid(axis="y", visible=False)
third.set(xlim=(0, 1), xlabel=f"induction score of head {layer}.{head}\n(dotted: chance)", title="After removing …")
plt.show()
worst = min((f"head 0.{h}" for h in range(4)), key=left_over.__getitem__)
check(
    f"the induction head sits in layer {layer}; without the attention of layer 0 its score falls from "
    f"{left_over['nothing']:.2f} to {left_over['all of layer 0']:.2f}, and the loss rises from "
    f"{after_removal['nothing'][0]:.2f} to {after_removal['all of layer 0'][0]:.2f}; without a single "
    f"one, {worst}, it falls to {left_over[worst]:.2f} at most, for the heads of layer 0 share the work",
    layer == 1 and left_over["all of layer 0"] < left_over["nothing"] / 2,
)

# %% [markdown]
# Has the demo model grown such heads on its stories? The same kind of score, measured by the package; besides chance it
# tells what looking a fixed distance back would have reached. (It need not have any: nothing in a short story *has* to
# be copied from far away.)

# %%
view("induction in the demo model", lambda: gpt2.inspection.induction(demo, demo_tokenizer))

# %% [markdown]
# ## 17 Patching: where an answer comes from
#
# Two texts that differ in one word, "girl" and "boy", make the model say "she" or "he". Where does that one bit travel?
# **Activation patching** (Meng et al., 2022) finds out: run the "boy" text, but at one layer and one position put in
# the value from the "girl" text. How much of the answer comes back? 0: nothing. 1: all of it.
#
# **Predict.** At layer 0 the bit sits on the word "girl" itself. And at the last layer, where must it be? In which
# layer does it jump?

# %%
texts = ("Once upon a time there was a little girl. One day,", "Once upon a time there was a little boy. One day,")
if HAVE_PACKAGE:
    clean, corrupted = (gpt2.inspection.run(demo, demo_tokenizer, text) for text in texts)
view("patching the stream", lambda: gpt2.inspection.patch_grid(clean, corrupted, " she", " he"))

# %%
if HAVE_PACKAGE:
    grid_of_patches = gpt2.inspection.patch_grid(clean, corrupted, " she", " he")
    recovered = grid_of_patches.recovered  # (L, T)
    word = next(i for i, (a, b) in enumerate(zip(clean.tokens, corrupted.tokens, strict=True)) if a != b)
    arrived = torch.cat([recovered[:, -1], torch.ones(1)])  # at the last position, before each layer and at the end
    jump = arrived.diff().argmax().item()
    check(
        f"before layer 0 all of it is at “{clean.tokens[word]}” (position {word}): {recovered[0, word]:.0%}; "
        "before the "
        f"last layer {recovered[-1, word]:.0%} is left there, and {recovered[-1, -1]:.0%} is at the last position, "
        f"which must have all of it at the end; most of that comes in layer {jump}, {arrived.diff()[jump]:.0%}",
        recovered[0, word].item() > 0.99 and recovered[-1, word].item() < recovered[0, word].item(),
    )
else:
    print("skipped: the package is not installed (how far the answer has travelled)")
view("which heads carry it", lambda: gpt2.inspection.patch_grid(clean, corrupted, " she", " he", unit="head"))

# %% [markdown]
# Blue heads carry the answer, orange ones work against it. You have now followed one bit of meaning through a
# transformer, with numbers that add up.

# %%
print(f"the whole notebook took {time.perf_counter() - notebook_started:.0f} s")

# %% [markdown]
# ## 18 Exercises
#
# Change, run, and look which ✓ fails: that is the best way to learn what a check is for.
#
# 1. In `attention_pattern`, set masked scores to 0 instead of minus infinity. Which check notices first?
#    <details><summary>Answer</summary>The six pictures of section 5 do not, for they have a mask of their own, but
#    the comparison with the package does. A score of 0 becomes a weight of $e^0$ over the sum, so the future leaks:
#    the loss of section 11 falls far too low, and generated text is rubbish.</details>
# 2. Why is the division by $\sqrt{d}$ and not by d?
#    <details><summary>Answer</summary>The variance of a sum of d independent products is d, and its spread is the
#    root of it. Dividing by d would make the scores ever smaller as d grows, and the softmax ever flatter.</details>
# 3. Train with `optimizer_name = "adamw"`. Which baseline is passed later than before?
#    <details><summary>Answer</summary>Look at the ✓ under the curve: it names the step at which each was passed. In
#    the same time AdamW usually ends above Muon here.</details>
# 4. Leave the positions out (in `embed`, add `0 * self.wpe(positions)`). How much does the held-out loss suffer?
#    <details><summary>Answer</summary>Less than one would think: with depth, order leaks in through the mask (the
#    last picture of section 5). At first it even learns a little faster, for there is less to learn; later it falls
#    behind. `same` will object, rightly: that is no longer a GPT-2.</details>
# 5. Untie the embeddings: give `GPT2` an output matrix of its own. How many parameters does that add to ours?
#    <details><summary>Answer</summary>V · D: as many as the token table. Section 8 computes the number for GPT-2
#    small.</details>
# 6. What does `generate` do at temperature 0 if two logits are exactly equal?
#    <details><summary>Answer</summary>`argmax` takes the first. Programs that divide by the temperature instead crash
#    there, or give not-a-number and always token 0.</details>
# 7. Add top-k to `choose`: keep the k largest logits, set the others to minus infinity. At which temperatures does it
#    change most?
#    <details><summary>Answer</summary>At high ones: the left picture of section 12 shows how much probability lies
#    beyond any rank.</details>
# 8. In section 16, let every stretch have the same length, 10. What does the model with one layer learn now?
#    <details><summary>Answer</summary>To look nine tokens back, by position alone. The loss falls as if it had found
#    induction, and it has not: this is the shortcut that a varying length takes away.</details>
# 9. In section 17, use texts that differ in the name instead ("Lily", "Tom"). Does the answer travel by the same
#    heads?
#    <details><summary>Answer</summary>With " she" and " he" as answers it does, by the same two heads; ask for the
#    names themselves (" Lily", " Tom"), and the later one of the two does nearly all of it alone. The texts must have
#    equally many tokens; `patch_grid` says so if they have not.</details>
# 10. Put the norm after the sum in `Block`, as the first transformer had it, and train. Then divide the learning rate
#    by ten.
#    <details><summary>Answer</summary>Compare the two held-out losses with the one you had. `same` will object,
#    rightly: that is no longer a GPT-2.</details>
#
# **What next?** Train on your own text: put its path into `text_file`. Read the package: the same model stands in
# `src/gpt2/model`, and the formulas of this notebook in `ops/reference.py`. It adds what a longer run wants: packed
# documents, mixed precision, checkpoints and exact resuming. `gpt2 train` trains, and `gpt2 inspect` and `gpt2 plot`
# make the pictures of sections 15 to 17 of any GPT-2, yours or OpenAI's.
