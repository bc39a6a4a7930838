"""One model behind HTTP: an engine for many streams, an OpenAI-compatible API, a page to look inside."""
