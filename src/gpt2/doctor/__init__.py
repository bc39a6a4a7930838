"""Whether this machine computes what it should, and how fast."""

from gpt2.doctor.self_check import Check as Check
from gpt2.doctor.self_check import self_check as self_check
