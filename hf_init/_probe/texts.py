"""How long texts are cut into passages to probe with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


def passages(texts: Iterable[str], length: Callable[[str], int], most: int) -> Iterator[str]:
    """Cut texts into passages of at most ``most`` tokens, each in front of a space near the middle.

    Together the passages are the texts. One without a space, and one of a single character, is as long as it is.

    Example:
        >>> [*passages(["one two three four"], len, 9)]
        ['one two', ' three', ' four']
    """
    for text in texts:
        if not text:
            continue
        spaces = [i for i, character in enumerate(text) if i and character.isspace()] if length(text) > most else []
        if spaces:
            middle = min(spaces, key=lambda i: abs(i - len(text) // 2))
            yield from passages((text[:middle], text[middle:]), length, most)
        else:
            yield text
