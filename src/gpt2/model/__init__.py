"""GPT-2 and its parts."""

from gpt2.model.gpt2 import GPT2 as GPT2
from gpt2.model.kv_cache import KVCache as KVCache
from gpt2.model.ops import IGNORED as IGNORED
from gpt2.model.ops import Tap as Tap
from gpt2.model.segments import Segments as Segments
