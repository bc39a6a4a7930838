"""What a GPT-2 of a given shape costs: parameters, arithmetic, memory. Closed formulas."""

from gpt2.config import GPT2Config


def count_parameters(config: GPT2Config) -> int:
    """Parameters of a GPT-2, by formula; the tied embedding counts once."""
    d, layers = config.d_model, config.num_layers
    block = 12 * d * d + 13 * d
    return (config.vocab_size + config.context_length) * d + layers * block + 2 * d


def flops_per_token(config: GPT2Config) -> float:
    """Floating-point operations of training per token: 6 per weight that multiplies, and attention."""
    weights = 12 * config.num_layers * config.d_model**2 + config.vocab_size * config.d_model
    return 6.0 * weights + 6.0 * config.num_layers * config.d_model * config.context_length


def training_memory(config: GPT2Config, micro_batch_tokens: int) -> int:
    """Bytes that weights, gradients, optimizer state and activations need, roughly."""
    states = 16 * count_parameters(config)
    activations = micro_batch_tokens * (config.num_layers * 34 * config.d_model + 8 * config.d_model) * 2
    return states + activations + 256 * config.vocab_size * 8
