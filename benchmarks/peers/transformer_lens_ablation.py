"""Ablation of every head by TransformerLens; run by its own Python, for the benchmark and for `make interop`."""

import torch


def ablation(bridge, documents):
    """The rise of the mean loss without each head, one after another: documents (B, T) -> (layers, heads)."""
    base = _losses(bridge, documents, [])
    rows = [
        [
            (_losses(bridge, documents, [(f"blocks.{layer}.attn.hook_z", _without(bridge, head))]) - base).sum()
            for head in range(bridge.cfg.n_heads)
        ]
        for layer in range(bridge.cfg.n_layers)
    ]
    return torch.tensor(rows) / documents[:, 1:].numel()


def _losses(bridge, documents, hooks):
    logits = bridge.run_with_hooks(documents[:, :-1], fwd_hooks=hooks)
    flat = torch.nn.functional.cross_entropy(logits.flatten(0, 1), documents[:, 1:].flatten(), reduction="none")
    return flat.view(len(documents), -1).sum(dim=1)


def _without(bridge, head):
    def hook(value, hook):
        value = value.view(*value.shape[:2], bridge.cfg.n_heads, -1).clone()
        value[:, :, head] = 0.0
        return value

    return hook
