"""GPT-2's spelling of bytes as printable characters (Radford et al., 2019, `bytes_to_unicode`).

`tokenizer.json` is text, so tokens, which are bytes, are written with one visible character each:
those of Latin-1 that can be seen stand for themselves, the other 68 take U+0100 and following.
"""


def _byte_characters() -> list[str]:
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {byte: chr(byte) for byte in visible}
    for byte in range(256):
        if byte not in characters:
            characters[byte] = chr(256 + len(characters) - len(visible))
    return [characters[byte] for byte in range(256)]


BYTE_TO_CHARACTER = _byte_characters()
"""Element b is the character that stands for the byte b."""
CHARACTER_TO_BYTE = {character: byte for byte, character in enumerate(BYTE_TO_CHARACTER)}


def token_to_bytes(token: str) -> bytes:
    """The bytes a token of the vocabulary stands for.

    Raises:
        KeyError: a character that stands for no byte.
    """
    return bytes([CHARACTER_TO_BYTE[character] for character in token])
