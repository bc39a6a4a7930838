"""Names of a model's inner values: TransformerLens' classic ones, long (`blocks.2.attn.hook_pattern`) and short."""

from collections.abc import Iterable

from gpt2.errors import ConfigError, nearest

Key = str | tuple[str, int] | tuple[str, int, str]
"""A long name, a short one of the whole model ("embed"), or (short name, layer[, "ln1" or "ln2"])."""

_MODEL = {"embed": "hook_embed", "pos_embed": "hook_pos_embed"}
_FINAL = {"scale": "ln_final.hook_scale", "normalized": "ln_final.hook_normalized"}
_BLOCK = {
    "resid_pre": "hook_resid_pre", "attn_out": "hook_attn_out", "resid_mid": "hook_resid_mid",
    "mlp_out": "hook_mlp_out", "resid_post": "hook_resid_post",
    "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v", "attn_scores": "attn.hook_attn_scores",
    "pattern": "attn.hook_pattern", "attn": "attn.hook_pattern", "z": "attn.hook_z", "result": "attn.hook_result",
    "pre": "mlp.hook_pre", "post": "mlp.hook_post",
}  # fmt: skip
_NORM = ("scale", "normalized")
_NORMS = ("ln1", "ln2")


def long_name(key: Key) -> str:
    """The long name of a key; a long name stays as it is.

    Args:
        key: `"hook_embed"`, `"embed"`, `("pattern", 2)`, `("scale", 2, "ln1")`, or `"scale"` for the final norm's.

    Raises:
        ConfigError: no value has this short name; the message names the nearest.

    Example:
        >>> long_name(("pattern", 2))
        'blocks.2.attn.hook_pattern'
    """
    if isinstance(key, str):
        return {**_MODEL, **_FINAL}.get(key, key)
    short, layer, *norm = key
    if short in _NORM and norm and norm[0] in _NORMS:
        return f"blocks.{layer}.{norm[0]}.hook_{short}"
    if short not in _BLOCK:
        need = ' A norm\'s needs its name: ("scale", 0, "ln1").' if short in _NORM else nearest(short, _BLOCK)
        raise ConfigError(f"no value of a block is called {short!r}.{need} There are {', '.join(_BLOCK)}")
    return f"blocks.{layer}.{_BLOCK[short]}"


def block_names(layer: int) -> list[str]:
    """Long names of what the tap shows of a block, in the order in which the model computes them."""
    inner = (
        "hook_resid_pre", "ln1.hook_scale", "ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v",
        "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z", "hook_attn_out", "hook_resid_mid",
        "ln2.hook_scale", "ln2.hook_normalized", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out", "hook_resid_post",
    )  # fmt: skip
    return [f"blocks.{layer}.{name}" for name in inner]


def all_names(num_layers: int) -> list[str]:
    """Long names of everything that the tap of a model shows, in order."""
    blocks = [name for layer in range(num_layers) for name in block_names(layer)]
    return [*_MODEL.values(), *blocks, *_FINAL.values()]


def require_name(name: str, known: Iterable[str]) -> None:
    """Raise unless `name` is one of `known`.

    Raises:
        ConfigError: it is not; the message names the nearest.
    """
    known = list(known)
    if name not in known:
        first, _, inner = name.removeprefix("blocks.").partition(".")
        if f"blocks.0.{inner}" in known and first.isdigit():
            last = max(int(other.split(".")[1]) for other in known if other.startswith("blocks."))
            raise ConfigError(f"there is no layer {first}: they go from 0 to {last}")
        raise ConfigError(f"the model has no value called {name!r}.{nearest(name, known)} gpt2.inspection.all_names "
                          f"lists them; short forms are tuples such as ('pattern', 2)")  # fmt: skip
