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
# # GPT-2 from scratch
#
# This notebook builds a GPT-2 out of tensors, trains it to tell stories, and saves it. Nothing is taken ready-made:
# the layers, the loss, the optimizers and the sampling are written here, in short cells, from `torch.Tensor`,
# `nn.Module`, `nn.Parameter` and `nn.ModuleList` alone. PyTorch gives us arrays, gradients and matrix products; the
# `tokenizers` library learns the vocabulary.
#
# Each section has one idea: what it is, the formula, the code, and **a check with a number that the cell computes**.
# If the package `gpt2` of this project is installed, each part is also compared with the package's own.
#
# Run the cells from top to bottom. On two CPU cores the whole notebook takes under five minutes.
#
# | | | |
# | --- | --- | --- |
# | 1 Settings | 6 Layer normalisation | 11 The loss |
# | 2 The text | 7 Attention | 12 The optimizers |
# | 3 Tokens | 8 GELU and the MLP | 13 Training |
# | 4 From ids to vectors | 9 The block | 14 What has it learned? |
# | 5 The linear layer | 10 GPT-2 | 15 Temperature, 16 Save and load |
#
# Letters in the shape comments: **B** batch, **T** time (position in the text), **D** `d_model`, **H** heads, **d** =
# D / H, **V** vocabulary.
#
# Questions that are answered on the way: Why are positions added? (4, 7) Why divide by the square root of d? (7) Where
# is the mask? (7) Why does the norm come first? (9) Where is the output matrix? (10) Who shifts the targets, the data
# or the model? (11) What decays, and what does not? (12) What is temperature 0? What if the text outgrows the context?
# (15)

# %%
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import tokenizers
import torch
from torch import Tensor, nn
from tqdm import tqdm

try:  # the package of this project; the notebook also runs without it
    import gpt2.data
    import gpt2.evaluation.bits_per_byte
    import gpt2.model.attention
    import gpt2.model.gpt2
    import gpt2.model.layers
    import gpt2.model.ops
    import gpt2.training.optimizers
    import gpt2.training.schedule

    HAVE_PACKAGE = True
except ImportError:
    HAVE_PACKAGE = False

plt.rcParams.update({"figure.dpi": 90, "font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
notebook_started = time.perf_counter()
print(f"PyTorch {torch.__version__}, tokenizers {tokenizers.__version__}")
print("the package gpt2 is", "here: every part will be compared with it" if HAVE_PACKAGE else "not installed")

# %% [markdown]
# Three small helpers for the comparisons. `same` asserts that our numbers are the package's. Its second value comes
# as a function, which is only called if the package is there. `shake` gives every parameter a value of its own first:
# biases begin at 0 and scales at 1, so a part that *forgot* to use them would otherwise pass the test.


# %%
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


# %% [markdown]
# ## 1 Settings
#
# Everything you may want to change stands in this one cell. With a GPU you get the project's own shape (6 layers,
# `d_model` 512). Without one you get a small model that learns something in the time a person is willing to wait.
#
# Training lasts for a number of `epochs` (passes over the text), or, if `seconds` is a number, for that long: the
# learning rate then follows the clock, so the run always finishes properly. That is the default on a CPU.

# %%
device = "cuda" if torch.cuda.is_available() else "cpu"  # on a Mac you may try "mps"
gpu = device != "cpu"

# the model
num_layers = 6 if gpu else 4
d_model = 512 if gpu else 128
num_heads = 8 if gpu else 4
context_length = 512 if gpu else 128  # the longest text, in tokens, that the model can look at
vocab_size = 10_048 if gpu else 2048
dropout = 0.0

# the data
text_file = ""  # "" looks for TinyStories; or give the path of any text
data_fraction = 0.1  # share of the text file that is used
most_megabytes = None if gpu else 16  # but no more than this: a CPU could not read more in the time it has

# the training
optimizer_name = "muon"  # "muon" or "adamw"
batch_size = 16  # rows of `context_length` tokens per step
epochs = None  # passes over the text; None: one, or up to ten over a small text
seconds = float(os.environ.get("GPT2_NOTEBOOK_SECONDS", 0 if gpu else 150))  # 0: train for `epochs`
learning_rate = {"muon": 0.02, "adamw": 2e-3}[optimizer_name]
weight_decay = {"muon": 0.0, "adamw": 0.1}[optimizer_name]
warmup = 0.05  # share of the run in which the learning rate rises
seed = 0

torch.manual_seed(seed)
torch.set_float32_matmul_precision("high")  # lets newer GPUs use their faster matrix units
assert d_model % num_heads == 0, f"d_model ({d_model}) must be a multiple of num_heads ({num_heads})"
print(f"training on {device}:", f"{seconds:.0f} seconds" if seconds else "by epochs")

# %% [markdown]
# ## 2 The text
#
# We look for [TinyStories](https://arxiv.org/abs/2305.07759), short stories in the words of a small child: in
# `data/`, beside the notebook, and where Kaggle puts data sets. Otherwise we take the stories that come with the
# package.
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
# ## 3 Tokens
#
# A model computes with numbers, so text becomes a list of integers, its **token ids**. One id per letter makes texts
# long; one per word leaves new words without an id. **Byte-pair encoding** (BPE) lies between: it starts with the 256
# possible bytes and joins, again and again, the pair of neighbours that occurs most often. Frequent words end up as
# one token, rare ones as several, and no text is ever unknown, because the bytes are always there.
#
# Learning the pairs is the one job we leave to a library, Hugging Face's `tokenizers`. Our class only gives it the
# two methods we need.


# %%
class Tokenizer:
    """Text to ids and back."""

    def __init__(self, bpe: tokenizers.Tokenizer) -> None:
        self.bpe = bpe
        self.end_of_text = bpe.token_to_id(SEPARATOR)

    @classmethod
    def train(cls, texts: list[str], vocab_size: int) -> "Tokenizer":
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)  # pairs never cross words
        bpe.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[SEPARATOR],  # one id of its own for "the document ends here"
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),  # the 256 bytes
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        return cls(bpe)

    def encode(self, text: str) -> list[int]:
        return self.bpe.encode(text).ids

    def decode(self, ids: list[int]) -> str:
        return self.bpe.decode(ids)


tokenizer = Tokenizer.train(training, vocab_size)
vocab_size = tokenizer.bpe.get_vocab_size()  # a small text may have too few pairs for the size we wished
vocabulary = [tokenizer.bpe.id_to_token(i) for i in range(vocab_size)]
assert vocabulary[0] == SEPARATOR
assert sorted(vocabulary[1:257]) == sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())  # the 256 bytes
print(f"{vocab_size:,} tokens")
print("joined first:", *vocabulary[257:275])
print("joined last: ", *vocabulary[-10:])

# %% [markdown]
# Look at the pieces. `Ġ` is how the library shows a space: it belongs to the word that follows, so `" cat"` and
# `"cat"` are two different tokens. This is why a prompt should not end with a space.

# %%
sample = "Once upon a time, a dinosaur went to the supermarket. 🦕"
ids = tokenizer.encode(sample)
print(" | ".join(tokenizer.bpe.id_to_token(i) for i in ids))
print(ids)
assert tokenizer.decode(ids) == sample  # nothing is lost, not even an emoji
print(f"{len(sample.encode())} bytes became {len(ids)} tokens, and decode gives the text back")

some = training[:1000]
same(
    "tokenizer (ids of a document, both trained on the same text)",
    torch.tensor(Tokenizer.train(some, 500).encode(held_out[0])),
    lambda: torch.tensor(gpt2.Tokenizer.train(some, 500, allow_fewer=True).encode(held_out[0])),
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
bytes_per_token = sum(len(text.encode()) for text in training) / len(train_stream)
print(
    f"{len(train_stream):,} tokens to train on, {len(valid_stream):,} held out; {bytes_per_token:.2f} bytes per token"
)

# %% [markdown]
# ## 4 From ids to vectors
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
print("shape", tuple(vectors.shape), "- the same id gives the same vector:", torch.equal(vectors[0, 0], vectors[0, 2]))
if HAVE_PACKAGE:
    kernels = gpt2.model.ops.kernels("fused")  # the package's fast kernels: the harder comparison
same("embedding", vectors, lambda: kernels.embedding(few_ids, table.weight))

# %% [markdown]
# **Positions.** "dog bites man" and "man bites dog" have the same tokens. The model must know *where* each one
# stands, so there is a second table with a row for each position, and the two vectors are **added**:
#
# $$x_t = \text{wte}[\text{id}_t] + \text{wpe}[t]$$
#
# Does adding not muddle the two? With many dimensions there is room for both: two random vectors of D numbers are
# almost at right angles, so a later layer can still read one without being disturbed by the other. (Putting them end
# to end would work as well, but would make everything after it wider.) The next cell measures that angle. Section 7
# shows what goes wrong without positions.

# %%
a, b = torch.randn(1000, d_model), torch.randn(1000, d_model)
cosines = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
print(
    f"size of the cosine between two random vectors of {d_model} numbers: {cosines.abs().mean():.3f} on average; "
    f"0 is a right angle, 1 the same direction"
)
assert cosines.abs().mean() < 0.15

# %% [markdown]
# ## 5 The linear layer
#
# The workhorse: every output is a weighted sum of all inputs, plus a bias.
#
# $$y = x W + b$$
#
# Our `W` has the shape (in, out), as in OpenAI's GPT-2. PyTorch's own layer stores it the other way round, (out, in);
# whoever loads GPT-2's weights must know this, because a *square* matrix loads either way without any error, and is
# then wrong.


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
by_hand = sum(x[0, 0, i] * linear.weight[i, 2] for i in range(8)) + linear.bias[2]
print(
    "output 2 of the first token, summed by hand:",
    round(by_hand.item(), 6),
    "- by the layer:",
    round(linear(x)[0, 0, 2].item(), 6),
)
same("linear layer", linear(x), lambda: twin(gpt2.model.layers.Linear(8, 3, kernels), linear)(x))

# %% [markdown]
# **Dropout** is a brake against learning by heart: in training it sets a random share p of the numbers to zero and
# scales the others up by 1 / (1 - p), so that the average stays. We need it in three places. With more text than the
# model can memorise it only slows things down, so its default here is 0. It must never act while generating: that is
# what `model.eval()` is for.


# %%
class Dropout(nn.Module):
    """Zeroes a share p while training."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return x * (torch.rand_like(x) >= self.p) / (1 - self.p)


ones = torch.ones(100_000)
dropped = Dropout(0.2)(ones)
print(f"share of zeros {(dropped == 0).float().mean():.3f}, mean {dropped.mean():.3f}")
assert abs(dropped.mean() - 1) < 0.01
assert torch.equal(Dropout(0.2).eval()(ones), ones)

# %% [markdown]
# ## 6 Layer normalisation
#
# As vectors pass through many layers, their size drifts, and learning becomes unsteady. A **layer norm** gives every
# token's vector mean 0 and variance 1, then lets the model choose a scale and a shift for each dimension:
#
# $$y = \frac{x - \text{mean}(x)}{\sqrt{\text{var}(x) + \varepsilon}} \cdot w + b$$
#
# It works on each token alone, over its D numbers: never over the batch or over time. The variance divides by D, not
# by D - 1.


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
print(f"one token: mean {x[0, 0].mean():.2f}, standard deviation {x[0, 0].std():.2f}")
print(f"after it:  mean {y[0, 0].mean().abs():.2f}, standard deviation {y[0, 0].std(correction=0):.2f}")
norm = shake(LayerNorm(64))
same("layer norm", norm(x), lambda: twin(gpt2.model.layers.LayerNorm(64, kernels), norm)(x))

# %% [markdown]
# ## 7 Attention
#
# So far each token stands alone. **Attention** is the one place where tokens exchange information: each token
# collects something from the tokens before it.
#
# The simplest way to collect is a plain average of the past. A triangular matrix does it for all positions at once:

# %%
T = 4
values = torch.tensor([[1.0], [2.0], [3.0], [4.0]])  # (T, 1): one number per token
weights = torch.ones(T, T).tril()
weights = weights / weights.sum(dim=-1, keepdim=True)  # (T, T): row t says how much token t takes from each token
print(weights)
print("running average:", (weights @ values).flatten().tolist())

# %% [markdown]
# A plain average cannot choose. In attention the weights depend on the content. From its vector each token computes
# three others:
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
    exponentials = (x - x.amax(dim=-1, keepdim=True)).exp()  # the largest becomes exp(0): nothing overflows
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


print("softmax of 1, 2, 3: ", softmax(torch.tensor([1.0, 2.0, 3.0])))
print("of 1001, 1002, 1003:", softmax(torch.tensor([1001.0, 1002.0, 1003.0])), "(only differences count)")

# %% [markdown]
# **Why divide by the square root of d?** A dot product of two random vectors with d numbers is a sum of d random
# products: its variance is d. With large scores the softmax gives nearly everything to one token and its gradient
# vanishes, before anything has been learned. Dividing by $\sqrt{d}$ brings the variance back to 1.

# %%
print("  d   variance   after scaling   largest of 16 weights   after scaling")
for d in (4, 64, 512):
    q, k = torch.randn(2000, 1, d), torch.randn(2000, 16, d)
    scores = (q @ k.transpose(-2, -1)).squeeze(1)  # (2000, 16)
    scaled = scores / math.sqrt(d)
    print(
        f"{d:4}  {scores.var():8.1f}  {scaled.var():14.2f}  {softmax(scores).amax(-1).mean():22.2f}"
        f"  {softmax(scaled).amax(-1).mean():14.2f}"
    )
    assert 0.9 < scaled.var() < 1.1


# %% [markdown]
# **The causal mask.** The model will learn to predict the next token at *every* position at once, so a token must not
# see the ones after it: it would simply copy the answer. We set those scores to minus infinity, and the softmax gives
# them exactly 0. (Setting the weights to 0 *after* the softmax would leave rows that no longer sum to 1.)


# %%
def attention_pattern(q: Tensor, k: Tensor) -> Tensor:
    """Who looks at whom: queries and keys (B, H, T, d) -> weights (B, H, T, T)."""
    time, head_dim = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(head_dim)
    future = torch.ones(time, time, dtype=torch.bool, device=q.device).triu(diagonal=1)
    return softmax(scores.masked_fill(future, -torch.inf))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each token's weighted sum of the values of its past: (B, H, T, d)."""
    return attention_pattern(q, k) @ v


q, k, v = torch.randn(3, 1, 1, 8, 4)  # B = 1, H = 1, T = 8, d = 4
pattern = attention_pattern(q, k)
print("each row sums to", pattern.sum(-1).unique().tolist(), "- weight on the future:", pattern.triu(1).sum().item())
print("the first token sees only itself:", pattern[0, 0, 0].tolist()[:3], "...")
same(
    "attention",
    attention(q, k, v),  # the package keeps (B, T, H, d)
    lambda: kernels.attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2),
)

# %% [markdown]
# **Several heads.** One pattern can follow one question only. So the D dimensions are cut into H **heads** of d = D /
# H, each with its own pattern, and a last linear layer mixes what they found. One matrix, `c_attn`, computes q, k and
# v of all heads together.
#
# Mind the `transpose`: (B, T, H·d) must be *viewed* as (B, T, H, d) and then *transposed* to (B, H, T, d). Viewing it
# as (B, H, T, d) right away gives the right shape and the wrong numbers.


# %%
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
        self.c_proj = Linear(config.d_model, config.d_model, std=0.02 / math.sqrt(2 * config.num_layers))
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
# **A test that needs no reference.** Change one token and see which outputs move. The token itself and all later ones
# must move, the earlier ones must not. The first half catches a forgotten mask; the second catches heads that were
# split wrongly and see only a part of the text.


# %%
@torch.no_grad()
def dependency(layer: nn.Module, time: int, d_model: int) -> Tensor:
    """[i, j] is true where output i moves when input j is changed: (T, T)."""
    x = torch.randn(1, time, d_model)
    moved = []
    for j in range(time):
        nudged = x.clone()
        nudged[0, j] += 1.0 * torch.randn(d_model)
        moved.append((layer(nudged) - layer(x)).abs().amax(-1)[0] > 1e-6)
    return torch.stack(moved, dim=1)


seen = dependency(attention_layer, 16, 32)
allowed = torch.ones(16, 16, dtype=torch.bool).tril()
print(f"outputs that see the future: {(seen & ~allowed).sum()} of {(~allowed).sum()}")
print(f"outputs that see their past: {(seen & allowed).sum()} of {allowed.sum()}")
assert torch.equal(seen, allowed)

# %% [markdown]
# **What goes wrong without positions?** Attention is a weighted sum, and a sum does not care about order. Shuffle the
# tokens before the last one, and the last one's output stays as it is. Once positions are added, the order counts.

# %%
tokens, positions = torch.randn(1, 16, 32), torch.randn(1, 16, 32)
order = torch.cat([torch.randperm(15), torch.tensor([15])])  # the last stays last
with torch.no_grad():
    without = attention_layer(tokens[:, order])[0, -1] - attention_layer(tokens)[0, -1]
    with_them = attention_layer(tokens[:, order] + positions)[0, -1] - attention_layer(tokens + positions)[0, -1]
print(f"the last output moves by {without.abs().max():.1e} without positions, by {with_them.abs().max():.1e} with them")
assert without.abs().max() < 1e-5 < with_them.abs().max()


# %% [markdown]
# ## 8 GELU and the MLP
#
# Attention gathers; the **MLP** then thinks about what was gathered, for each token alone: widen to 4 D, bend, narrow
# back to D. Without the bend two linear layers would collapse into one. GPT-2 bends with **GELU**, a smooth ReLU: x
# times the share of a bell curve that lies below x. That share has no simple formula, and GPT-2 was trained with this
# approximation:
#
# $$\text{gelu}(x) = \tfrac12\, x \left(1 + \tanh\left(\sqrt{2/\pi}\,(x + 0.044715\, x^3)\right)\right)$$
#
# The exact form (with the error function) is a slightly different function. To use OpenAI's weights, one needs the
# one they were trained with.


# %%
def gelu(x: Tensor) -> Tensor:
    """GPT-2's form, with tanh."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


x = torch.linspace(-4, 4, 801)
exact = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
print(f"largest difference between the two forms: {(gelu(x) - exact).abs().max():.1e}")
same("GELU", gelu(x), lambda: kernels.gelu(x))

figure, axes = plt.subplots(figsize=(5, 2.8))
axes.plot(x.numpy(), x.clamp(min=0).numpy(), "--", color="grey", label="ReLU")
axes.plot(x.numpy(), gelu(x).numpy(), label="GELU")
axes.set(xlabel="x", ylabel="output", title="GELU is a ReLU with a soft corner")
axes.legend()
plt.show()


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


x = torch.randn(2, 16, 32)
mlp = shake(MLP(tiny))
same("MLP", mlp(x), lambda: twin(gpt2.model.layers.MLP(their_tiny, kernels), mlp)(x))

# %% [markdown]
# ## 9 The block
#
# A **block** is attention, then an MLP. Neither replaces x: each *adds* to it. This running sum is called the
# **residual stream**; think of a notebook that every layer reads and writes a few lines into. The gradient flows back
# through the plus signs unhindered, which is what makes deep models trainable.
#
# $$x \leftarrow x + \text{attention}(\text{norm}_1(x)) \qquad x \leftarrow x + \text{mlp}(\text{norm}_2(x))$$
#
# The norm stands *before* each part (pre-LN), not after the sum as in the original transformer paper: the stream
# itself is never squeezed.


# %%
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


block = shake(Block(tiny))
same("block", block(x), lambda: twin(gpt2.model.gpt2.Block(their_tiny, kernels), block)(x))

# %% [markdown]
# Every block adds to the stream twice, so with L layers there are 2 L additions. If each one had the same size, the
# stream's variance would grow with depth. This is why `c_proj`, the last matrix of each branch, starts smaller than
# the others, by $1/\sqrt{2L}$:

# %%
for depth in (2, 24):
    config = GPT2Config(50, 16, 64, num_layers=depth, num_heads=4)
    blocks = [Block(config) for _ in range(depth)]
    spread = {}
    for scaled in (False, True):
        x = 0.02 * torch.randn(8, 16, 64)
        with torch.no_grad():
            for block in blocks:
                for layer in (block.attn.c_proj, block.mlp.c_proj):
                    layer.weight.copy_(torch.randn_like(layer.weight) * 0.02 / (math.sqrt(2 * depth) if scaled else 1))
                x = block(x)
        spread[scaled] = x.std().item()
    print(f"{depth:2} layers: the stream ends with a spread of {spread[False]:.3f} unscaled, {spread[True]:.3f} scaled")


# %% [markdown]
# ## 10 GPT-2
#
# Now everything together: add token and position embeddings, run through the blocks, one last norm (the stream was
# never normalised, so `ln_f` is needed). Then each final vector is compared, by dot product, with the embedding of
# every token. The result is V numbers per position, the **logits**: one score for each possible next token.
#
# The table that turns tokens into vectors is the same that turns vectors into tokens: the embeddings are **tied**. So
# there is no separate output matrix, nor a parameter for it.
#
# `state_dict` hands our configuration along with the weights, so that a saved file says by itself what shape it is.


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
        return generate(self, context, max_new_tokens, temperature)  # section 15


few_ids = torch.randint(tiny.vocab_size, (3, 16))
tiny_model = shake(GPT2(tiny))
print("logits:", tuple(tiny_model(few_ids).shape), "= (B, T, V)")
same("GPT-2, whole model (logits)", tiny_model(few_ids), lambda: twin(gpt2.GPT2(their_tiny), tiny_model)(few_ids))

# %% [markdown]
# Is it the real GPT-2? The smallest one that OpenAI published has 124,439,808 parameters. We count ours in the same
# shape, on PyTorch's `meta` device, which knows shapes but needs no memory.

# %%
with torch.device("meta"):
    gpt2_small = GPT2(GPT2Config(vocab_size=50_257, context_length=1024, d_model=768, num_layers=12, num_heads=12))
count = sum(parameter.numel() for parameter in gpt2_small.parameters())
print(f"{count:,} parameters; an untied output matrix would add {50_257 * 768:,}")
assert count == 124_439_808

# %% [markdown]
# And here is the model that we are going to train:

# %%
torch.manual_seed(seed)
config = GPT2Config(
    vocab_size, context_length, d_model, num_layers, num_heads, dropout, eos_token_id=tokenizer.end_of_text
)
model = GPT2(config).to(device)

groups: dict[str, int] = {}
for name, parameter in model.named_parameters():
    part = next((word for word in ("wte", "wpe", "attn", "mlp") if word in name), "norms")
    groups[part] = groups.get(part, 0) + parameter.numel()
total = sum(groups.values())
for part, count in groups.items():
    print(f"{part:6} {count:10,}  {count / total:5.1%}")
print(f"{'all':6} {total:10,}  (wte counts once, though it is also the output matrix)")

# %% [markdown]
# ## 11 The loss
#
# The training game: at every position, guess the next token. So the **targets** are the inputs shifted by one. The
# shift must happen exactly once: here, in the data, and not again in the model. Without it the model learns to repeat
# its input, and the loss looks wonderful; done twice, it learns to guess the token after the next.

# %%
window = train_stream[:9]
inputs, targets = window[:-1], window[1:]
for i, t in list(zip(inputs.tolist(), targets.tolist(), strict=True))[:6]:
    print(f"{tokenizer.bpe.id_to_token(i):>15}  ->  {tokenizer.bpe.id_to_token(t)}")


# %% [markdown]
# The **cross-entropy** of one guess is $-\ln p$, where p is the probability that the model gave to the token that
# came. Certain and right: 0. One chance in V: $\ln V$. In logits:
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

with torch.no_grad():
    first = valid_stream[: context_length + 1].to(device)
    untrained = cross_entropy(model(first[None, :-1])[0], first[1:]).mean().item()
print(f"loss before training {untrained:.3f}, ln V = {math.log(vocab_size):.3f}")
assert abs(untrained - math.log(vocab_size)) < 0.3

# %% [markdown]
# ## 12 The optimizers
#
# Backward gives the gradient g of the loss for each weight. An optimizer decides the step. **AdamW** keeps two
# running averages, of g and of g². Their ratio makes the step about equally large for every weight, however small its
# gradient is:
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
# **Muon** looks at a weight matrix as a whole. A gradient matrix is usually dominated by a few directions; Muon keeps
# all directions of its running average but makes them **equally long**. If $M = U S V^\top$ (singular value
# decomposition), the step is $U V^\top$. Computing U and V is slow, so a polynomial is applied five times instead,
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
    x = x.bfloat16()  # precise enough, and fast
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # now every singular value is at most 1
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return x


matrix = torch.randn(64, 64) @ torch.randn(64, 64)
before, after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(orthogonalize(matrix).float())
print(
    f"singular values before: {before.max():.0f} at most, {before.median():.1f} in the middle; "
    f"after: {after.max():.2f} at most, {after.median():.2f} in the middle"
)


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


# %% [markdown]
# **Which parameter goes where?** With AdamW for all, only matrices and embeddings decay: there is no reason to pull a
# bias or the scale of a norm towards 0. With Muon, the blocks' matrices go to it and the rest to AdamW.
#
# Then each takes three steps on a copy of the tiny model, and so does the package's. The gradients are made up and the
# same for both: some true gradients are nothing but rounding errors around 0, and AdamW makes a full step of any
# gradient, however small.


# %%
def make_optimizers(model: nn.Module, name: str, lr: float, weight_decay: float) -> list:
    """The optimizers that share the parameters of a GPT-2 between them."""
    named = dict(model.named_parameters())
    matrices = {n: w for n, w in named.items() if w.ndim == 2 and ".h." in n}
    tables = {n: w for n, w in named.items() if w.ndim == 2 and ".h." not in n}  # wte and wpe
    vectors = {n: w for n, w in named.items() if w.ndim == 1}  # biases and norms
    if name == "adamw":
        decaying = [*tables.values(), *matrices.values()]
        return [AdamW(decaying, lr, weight_decay=weight_decay), AdamW(vectors.values(), lr)]
    return [
        Muon(matrices, lr, weight_decay=weight_decay),
        AdamW([*tables.values(), *vectors.values()], lr / 2, eps=1e-10),
    ]


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
    return three_steps(theirs, [gpt2.training.optimizers.build_optimizer(theirs, name, lr, weight_decay=0.1)])


for name, lr, tolerance in (("adamw", 2e-3, 1e-6), ("muon", 0.02, 1e-3)):  # Muon computes in bfloat16
    ours = twin(GPT2(tiny), tiny_model)
    after_ours = three_steps(ours, make_optimizers(ours, name, lr, weight_decay=0.1))
    same(f"{name}, three steps (weights)", after_ours, lambda name=name, lr=lr: their_three_steps(name, lr), tolerance)


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
# ## 13 Training
#
# A **batch** is B windows of T + 1 tokens, cut at random places of the stream. Such a window may begin in the middle
# of a story and run into the next; the model learns that `<|endoftext|>` starts something new. (The package does
# better: it packs whole documents and lets no token see another document.)
#
# One **step**: forward, loss, backward, update. The loss is the mean over all B × T guesses. At regular times we
# measure the loss on the same windows of held-out text.


# %%
def random_batch(stream: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets, both (B, T)."""
    starts = torch.randint(len(stream) - context_length, (batch_size,)).tolist()
    windows = torch.stack([stream[start : start + context_length + 1] for start in starts]).to(device)  # (B, T + 1)
    return windows[:, :-1], windows[:, 1:]


valid_starts = torch.linspace(0, len(valid_stream) - context_length - 1, 2 * batch_size).long().tolist()
valid_windows = torch.stack([valid_stream[start : start + context_length + 1] for start in valid_starts])


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


# %% [markdown]
# A practical matter. PyTorch spreads its work over all CPU cores. If other programs keep them busy, the threads wait
# for each other, and one thread alone can be much faster. So we measure, and keep what is better.


# %%
def step_time(threads: int) -> float:
    """Seconds for forward and backward with so many threads."""
    torch.set_num_threads(threads)
    for _ in range(2):  # the first is a warm-up
        started = time.perf_counter()
        inputs, targets = random_batch(train_stream)
        cross_entropy(model(inputs), targets).mean().backward()
    return time.perf_counter() - started


if not gpu:
    times = {threads: step_time(threads) for threads in {torch.get_num_threads(), 1}}
    torch.set_num_threads(min(times, key=times.__getitem__))
    print(", ".join(f"{threads} threads: {took:.2f} s" for threads, took in sorted(times.items())))
    print("training with", torch.get_num_threads())

# %% [markdown]
# Two simple guesses to beat. *Know nothing*: every token is equally likely, ln V. *Count only*: each token as likely
# as it is frequent in the training text, whatever came before.

# %%
counts = torch.bincount(train_stream, minlength=vocab_size) + 1.0
unigram = -(counts / counts.sum()).log()[valid_windows[:, 1:]].mean().item()
baselines = {"know nothing: ln V": math.log(vocab_size), "count only": unigram}
for name, value in baselines.items():
    print(f"{name:20} {value:.3f}")

# %%
history: dict[str, list[tuple[float, float]]] = {"training": [], "held out": []}


def train(model: GPT2, optimizers: list) -> int:
    """Train until the time or the epochs are over; returns the number of steps."""
    total_steps = math.ceil(epochs * len(train_stream) / (batch_size * context_length))
    started, step, progress, reports, recent = time.perf_counter(), 0, 0.0, 0, []
    with tqdm(
        total=100, unit="%", file=sys.stdout, leave=False, bar_format="{l_bar}{bar}| {elapsed}<{remaining}"
    ) as bar:
        while progress < 1:
            inputs, targets = random_batch(train_stream)
            loss = cross_entropy(model(inputs), targets).mean()  # forward
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
                if reports % 2 == 0:
                    bar.write(
                        f"step {step:5}   training loss {history['training'][-1][1]:.3f}"
                        f"   held-out loss {history['held out'][-1][1]:.3f}",
                        file=sys.stdout,
                    )
    return step


torch.manual_seed(seed)
started = time.perf_counter()
steps = train(model, make_optimizers(model, optimizer_name, learning_rate, weight_decay))
took, seen = time.perf_counter() - started, steps * batch_size * context_length
print(
    f"\n{steps:,} steps in {took:.0f} s: {seen:,} tokens, {seen / took:,.0f} per second, "
    f"{seen / len(train_stream):.1f} times the text"
)

# %% [markdown]
# The curve. If the held-out loss stops falling while the training loss goes on, the model is beginning to learn its
# text by heart: it needs more text, not more time.

# %%
figure, axes = plt.subplots(figsize=(7, 3.6))
for label, points in history.items():
    axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
for (label, value), style in zip(baselines.items(), (":", "--"), strict=True):
    axes.axhline(value, linestyle=style, color="grey", label=label)
axes.set(xlabel="step", ylabel="loss (nats per token)", title="Learning to guess the next token")
axes.legend(frameon=False)
plt.show()
print(f"final loss: training {history['training'][-1][1]:.3f}, held out {history['held out'][-1][1]:.3f}")


# %% [markdown]
# ## 14 What has it learned?
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
test_documents = held_out[:200]
bits = bits_per_byte(model, test_documents)
print(f"{bits:.3f} bits per byte on {len(test_documents)} held-out documents; stored as plain text, a byte takes 8")


def their_bits() -> Tensor:
    their_model = twin(gpt2.GPT2(gpt2.GPT2Config(**asdict(config))), model).to(device)
    ids = [torch.tensor([tokenizer.end_of_text, *tokenizer.encode(text)]).numpy() for text in test_documents]
    sizes = [len(text.encode()) for text in test_documents]
    score = gpt2.evaluation.bits_per_byte.score_documents(their_model, ids, sizes, tokenizer.end_of_text)
    return torch.tensor(score.bits_per_byte)


same("bits per byte", torch.tensor(bits), their_bits, tolerance=1e-2 if gpu else 1e-4)

# %% [markdown]
# Now look inside: the attention patterns of the trained model on one sentence. We walk through the blocks by hand, as
# the forward pass does, and keep each pattern. A row is a token that looks (read "from"), a column is a token that is
# looked at ("to"); yellow stands for a weight of one half or more. The upper right triangle is the causal mask.
# Typical finds: a diagonal just below the main one (a head that looks at the previous token), and a bright first
# column, where heads rest that find nothing to collect.

# %%
sentence = "Once upon a time, there was a little dog. The dog"
ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(sentence)]], device=device)[:, :context_length]
patterns = []
with torch.no_grad():
    x = model.transformer.embed(ids)
    for block in model.transformer.h:
        q, k, _ = block.attn.queries_keys_values(block.ln_1(x))
        patterns.append(attention_pattern(q, k)[0].cpu())  # (H, T, T)
        x = block(x)
    assert torch.allclose(model.transformer.ln_f(x), model.transformer(ids), atol=1e-3)  # the walk is the forward pass
patterns = torch.stack(patterns)  # (L, H, T, T)
assert patterns.triu(1).abs().max() == 0
assert (patterns.sum(-1) - 1).abs().max() < 1e-5

shown = min(num_heads, 4)
figure, axes = plt.subplots(num_layers, shown, figsize=(1.9 * shown, 2.0 * num_layers), squeeze=False)
for layer in range(num_layers):
    for head in range(shown):
        axes[layer, head].imshow(patterns[layer, head].numpy(), cmap="cividis", vmin=0, vmax=0.5)
        axes[layer, head].set_title(f"layer {layer}, head {head}", fontsize=10)
        axes[layer, head].set(xticks=[], yticks=[])
figure.supylabel("from (the token that looks)")
figure.supxlabel("to (the token that is looked at)")
figure.tight_layout()
plt.show()

# %% [markdown]
# One head up close: the one that looks hardest at the previous token.

# %%
names = [repr(tokenizer.decode([i])) for i in ids[0].tolist()]
names[0] = SEPARATOR  # decode leaves it out
previous = patterns.diagonal(offset=-1, dim1=-2, dim2=-1)[..., 1:].mean(
    -1
)  # (L, H), without the step onto the first token
layer, head = divmod(previous.argmax().item(), num_heads)
print(f"layer {layer}, head {head}: {previous[layer, head]:.0%} of its weight lies on the previous token")

figure, axes = plt.subplots(figsize=(6.2, 5.4))
image = axes.imshow(patterns[layer, head].numpy(), cmap="cividis", vmin=0, vmax=0.5)
axes.set_xticks(range(len(names)), names, rotation=90)
axes.set_yticks(range(len(names)), names)
axes.set(xlabel="to", ylabel="from", title=f"Layer {layer}, head {head}")
figure.colorbar(image, label="attention weight", extend="max")
plt.show()

# %% [markdown]
# Each token has become a vector. Which tokens ended up close to each other?

# %%
embeddings = model.transformer.wte.weight.detach().cpu()
embeddings = embeddings / embeddings.norm(dim=-1, keepdim=True)
for word in (" dog", " happy", " mom", " two", " run"):
    word_ids = tokenizer.encode(word)
    if len(word_ids) > 1:
        continue  # not a single token in this vocabulary
    nearest = (embeddings @ embeddings[word_ids[0]]).topk(6).indices.tolist()[1:]
    print(f"{word:>7}: ", ", ".join(repr(tokenizer.decode([i])) for i in nearest))


# %% [markdown]
# ## 15 Temperature
#
# To write, the model guesses the next token, we choose one, append it, and ask again. **Temperature** decides how
# bold the choice is: the logits are divided by it before the softmax. Below 1 the likely tokens gain, above 1 the
# unlikely ones. At 0 the division is impossible, so 0 is *defined* as taking the likeliest token ("greedy").


# %%
def choose(logits: Tensor, temperature: float) -> Tensor:
    """One next token for each row: (B, V) -> (B,)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    return torch.multinomial(softmax(logits.float() / temperature), num_samples=1).squeeze(-1)


prompt = "One day, a little girl named"
with torch.no_grad():
    logits = model(torch.tensor([tokenizer.encode(prompt)], device=device))[0, -1].cpu()  # (V,)
likeliest = logits.topk(10).indices
figure, axes = plt.subplots(1, 4, figsize=(11, 3.8), sharex=True, sharey=True)
for axis, temperature in zip(axes, (0.2, 0.8, 1.0, 2.0), strict=True):
    probabilities = softmax(logits / temperature)
    entropy = -(probabilities * probabilities.clamp(min=1e-30).log()).sum()
    axis.barh(range(10), probabilities[likeliest].tolist())
    axis.set_title(f"temperature {temperature}\nas if from {entropy.exp():.1f} tokens", fontsize=10)
    axis.set(xlabel="probability")
axes[0].set_yticks(range(10), [repr(tokenizer.decode([i])) for i in likeliest.tolist()])
axes[0].invert_yaxis()
figure.suptitle(f"What comes after “{prompt}”?", y=1.02)
figure.tight_layout()
plt.show()


# %% [markdown]
# **When the context is full.** There are only `context_length` positions, so a longer text does not fit. We then keep
# the last half of the window and go on from there; what lies before is forgotten.
#
# Generation also stops at `<|endoftext|>`: the story is over. (The package remembers the keys and values of the past,
# the **KV cache**, so that each new token costs the work of one. We compute the whole window again for every token,
# which is slower, and gives the same tokens.)


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
# The same beginning at three temperatures. Which one plays safe, which one falls apart?

# %%
for temperature in (0, 0.6, 1.5):
    output = model.generate(context, max_new_tokens=60, temperature=temperature)
    print(f"temperature {temperature}\n{tokenizer.decode(output[0].tolist())}\n")

# %% [markdown]
# ## 16 Save and load
#
# Two files: the tokenizer, and the weights. They belong together: with another vocabulary the ids mean something
# else.

# %%
folder = Path("models")
folder.mkdir(exist_ok=True)
tokenizer.bpe.save(str(folder / "tokenizer.json"))
torch.save(model.state_dict(), folder / "gpt2_model.pt")
for file in (folder / "tokenizer.json", folder / "gpt2_model.pt"):
    print(f"{file.as_posix()}  {file.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# Read them back, as a new session would, and check that it is the same model:

# %%
loaded = GPT2.load(folder / "gpt2_model.pt")
loaded_tokenizer = Tokenizer(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))
model = model.cpu()
with torch.no_grad():
    assert torch.equal(loaded(context), model(context))
assert loaded_tokenizer.encode(training[0]) == tokenizer.encode(training[0])
print("loaded: the same logits, to the last bit, and the same ids")

# %% [markdown]
# The names of our parameters and the layout of our weights are GPT-2's, so the package reads the same two files:

# %%
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
print(f"the whole notebook took {time.perf_counter() - notebook_started:.0f} s")

# %% [markdown]
# ## What next?
#
# - Change one setting at a time and watch the held-out loss: twice the `seconds`, `optimizer_name = "adamw"`, a
#   smaller model.
# - Break something on purpose: leave out the mask, the positions, the $1/\sqrt{d}$, or the shift of the targets.
#   Which checks notice? What does the loss do?
# - Train on your own text: put its path into `text_file`.
# - Read the package: the same model in `src/gpt2/model`, where the formulas of this notebook are `ops/reference.py`.
#   It adds what a longer run wants: packed documents, mixed precision, checkpoints and exact resuming, a KV cache.
#   `gpt2 train` is its command.
