"""Are two prompts the same, or nearly? Told by their words and the pieces of these, so in any language and order.

Two prompts count as the same one where any of these holds:

- they share `NEAR` of their pieces: case, punctuation, function words, order and a typo make no difference;
- one word was replaced, added or left out, and they share enough others (`ANOTHER_WORD`, `ANOTHER_FRAME`);
- the same holds of one prompt and some whole sentences of the other: sentences were put before or after it.

But never where a formula, a sign or a "not" tells them apart. Not found are two telling words changed in a short
prompt, one in a prompt with hardly any others, a prompt within a longer sentence, a paraphrase, a translation.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain

from visage_mlflow.language.judges.by_keyword import FUNCTION_WORDS

NEAR = 0.8
"""Share of pieces in common from which two prompts count as the same one."""
PIECE = 3
"""Characters in a piece."""
ANOTHER_WORD = ((3, 0), (2, 8))
"""Telling words, and words of any kind, that two prompts share at least where one telling word differs. Either is
enough; much less, and "How do I kill a process?" would be "How do I kill a person?"."""
ANOTHER_FRAME = ((3, 0), (1, 5))
"""The same, where the word that differs only frames the request: "Write" or "Create a tutorial"."""
FEWEST_FOR_A_TEMPLATE = 8
"""Different prompts that share what is taken for a template, and says nothing."""
FEWEST_EVALUATED = 3
"""Of these, prompts compared with: what one of them alone has in common with many others is itself, not a template."""
SHORTEST_TEMPLATE = 16
"""Pieces: what is shorter, some three words, does not make two prompts near, and is part of what they say."""

NOT = "not"
NEGATIONS = frozenset(
    "not no never without nor neither none cannot cant dont wont doesnt didnt isnt arent wasnt werent couldnt wouldnt "
    "shouldnt havent hasnt".split()
)
ARTICLES = frozenset(("a", "an", "the"))
FRAME = FUNCTION_WORDS | frozenset(
    "answer article best better briefly compose create describe design detail detailed develop devise draft email "
    "essay explain explanation from generate give good guide help instruction instructions kind let letter list "
    "manual me message new outline please poem post prepare produce provide script short show speech step steps story "
    "suggest suggestions summarize summary tell text tips tutorial us very want way ways whats write "
    "写 教 程 指 南 步 骤 "
    # The commonest words of German, French, Spanish, Italian and Portuguese.
    "auf das dem den der die ein eine einen ich im ist kann man mir mit und von was wie zu zum comment dans de des du "
    "en est et faire il je le les peux pour puis que sur un une como con del el es los las para puedo por una come di "
    "per posso um uma".split()
)
"""Words that frame a request, rather than tell what it is about."""
HAN_FUNCTION = frozenset("的了吗呢吧请一个些份种关于如何怎么样什在是有和与我你您他她它这那能可以要给把被")

_SAME_LOOK = str.maketrans("аеорсухіјѕԁһкмтвнοαρικτυχνεβıɑɡ−–×÷", "aeopcyxijsdhkmtbhoapiktuxvebiag--*/")
"""Letters of other scripts, and signs, that look like the one that they become."""
_OPERAND = r"(?:\d+(?:[.,]\d+)*|[b-hj-z])(?!\w)"
_WORD = re.compile(rf"(?<!\w){_OPERAND}(?:[ \t]*[-+*/^=<>][ \t]*{_OPERAND})+|(?<!\w)[a-z](?:\+\+|#)|\w+")
"""A formula is one word, so that its order and its signs count; so are C++ and C#."""
_SIGN = re.compile("[-+*/^=<>#]")
_SENTENCE_END = re.compile(r"[.!?:;](?=\s|$)|[。！？；：…\n]+")
_HAN = "\u3400-\u9fff"
_IN_WORD = re.compile(f"[{_HAN}]|[^{_HAN}\u3040-\u309f]+")


@dataclass(frozen=True)
class Told:
    """What two texts are compared by.

    Attributes:
        pieces: Each three characters of the words but function words, edges included.
        sentences: The words of each sentence, without articles; Chinese ones by character, Japanese ones without kana.
    """

    pieces: frozenset[str]
    sentences: tuple[frozenset[str], ...]

    @cached_property
    def words(self) -> frozenset[str]:
        """The words of all sentences."""
        return frozenset().union(*self.sentences)

    @cached_property
    def core(self) -> frozenset[str]:
        """Those that tell what it is about."""
        return self.words - FRAME

    @cached_property
    def signs(self) -> frozenset[str]:
        """Those that tell two prompts apart which are else the same."""
        return frozenset(word for word in self.words if tells_apart(word))

    def without(self, template: Told) -> Told:
        """The same without what a template says."""
        left = (words - template.words for words in self.sentences)
        return Told(self.pieces - template.pieces, tuple(words for words in left if words))


def told(text: str) -> Told:
    """What a text is compared by; case, accents, characters that do not show, and articles do not count.

    >>> sorted(told("The LOCK!").pieces)
    [' lo', 'ck ', 'loc', 'ock']
    >>> told("Don't ask. 7 - 12!").sentences == (frozenset({"not", "ask"}), frozenset({"7-12"}))
    True
    """
    every: list[str] = []
    sentences = []
    for sentence in _SENTENCE_END.split(plain(text)):
        words = [NOT if word in NEGATIONS else word for word in words_of(sentence)]
        every += words
        units = frozenset(unit for word in words for unit in _units(word)) - ARTICLES - HAN_FUNCTION
        if units:
            sentences.append(units)
    content = [word for word in every if word == NOT or word not in FUNCTION_WORDS] or every
    return Told(frozenset().union(*map(_pieces, set(content))), tuple(sentences))


def words_of(sentence: str) -> list[str]:
    """The words of a sentence, formulas as one."""
    if _SIGN.search(sentence):
        return [re.sub(r"\s", "", word) for word in _WORD.findall(sentence)]
    return re.findall(r"\w+", sentence)


def _units(word: str) -> Sequence[str]:
    return (word,) if word.isascii() else _IN_WORD.findall(word)


@lru_cache(maxsize=1 << 16)
def _pieces(word: str) -> tuple[str, ...]:
    return tuple(f" {word} "[i : i + PIECE] for i in range(len(word)))


def plain(text: str) -> str:
    """The text as it looks: in lower case, and without accents and characters that do not show."""
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text)
        shown = "".join(one for one in parts if unicodedata.category(one) not in ("Cf", "Mn", "Mc", "Me"))
        text = unicodedata.normalize("NFC", shown)
    return re.sub("['’`]", "", text.casefold().translate(_SAME_LOOK))


def tells_apart(word: str) -> bool:
    """Whether a word is a formula, has a sign or is a "not"."""
    return word == NOT or re.search(r"\W", word) is not None


def similarity(one: str, other: str) -> float:
    """Of the pieces of two texts, the share that both have, 0 to 1.

    >>> similarity("Pick a lock", "Pick the lock!")
    1.0
    """
    return _share(told(one).pieces, told(other).pieces)


def _share(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one or other else 0.0


def is_near(one: Told, other: Told) -> bool:
    """Whether two prompts count as the same one, by the module's three rules."""
    sizes = len(one.pieces), len(other.pieces)
    could_share = min(sizes) >= NEAR * max(sizes)
    if could_share and _share(one.pieces, other.pieces) >= NEAR and one.signs == other.signs:
        return True
    short, long = (one, other) if len(one.words) <= len(other.words) else (other, one)
    if not short.core & long.core or len(short.core - long.core) > 2:
        return False  # No part can have what the whole has not.
    n = len(short.sentences)
    parts = [long.words, *(frozenset().union(*long.sentences[i : i + n]) for i in range(len(long.sentences) - n + 1))]
    return any(_differ_by_a_word(short.words, part) for part in parts)


def _differ_by_a_word(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether each set of words has at most one that the other has not, or two function words, and they share enough.

    One that tells apart may not be among them, nor may a number that stands for another.
    """
    changed = one - other, other - one
    if any(_count(words) > 1 or any(map(tells_apart, words)) for words in changed):
        return False
    if all(any(map(str.isdecimal, "".join(words))) for words in changed):
        return False
    common = one & other
    core = _count(common - FRAME)
    enough = ANOTHER_WORD if any(words - FRAME for words in changed) else ANOTHER_FRAME
    return any(core >= telling and len(common) >= of_any_kind for telling, of_any_kind in enough)


def _count(words: Iterable[str]) -> float:
    """How many words these are: two Chinese characters are about one, and a function word is half of one."""
    return sum(0.5 if word in FUNCTION_WORDS or "\u3400" <= word <= "\u9fff" else 1.0 for word in words)


def nearest(prompts: Iterable[str], among: Sequence[str]) -> dict[str, list[int]]:
    """Which of the prompts come again, equal or nearly, among others.

    What most prompts share, as an instruction before each, is left out of the comparison; but those that say nothing
    else are compared by it.

    Returns:
        Prompt -> the places in `among` of those that it is equal or nearly equal to; prompts with none are left out.
    """
    different = list(dict.fromkeys(prompts))
    asked, evaluated = [told(prompt) for prompt in different], [told(other) for other in among]
    template = _template(asked, evaluated)
    own = {place: one for place, each in enumerate(evaluated) if (one := each.without(template)).pieces}
    bare = {place: each for place, each in enumerate(evaluated) if place not in own}
    found = _found([each.without(template) for each in asked], own)
    for places, more in zip(found, _found(asked, bare), strict=True):
        places |= more
    equal = defaultdict(set)
    for place, other in enumerate(among):
        equal[other].add(place)
    near = {prompt: sorted(places | equal[prompt]) for prompt, places in zip(different, found, strict=True)}
    return {prompt: places for prompt, places in near.items() if places}


def _template(asked: Sequence[Told], evaluated: Sequence[Told]) -> Told:
    """What more than half of the prompts on either side share, if several evaluated ones have about all of it."""
    sides = set(asked), set(evaluated)
    found = Told(frozenset(), ())
    for side in sides:
        pieces = _in_most([each.pieces for each in side])
        words = _in_most([each.words for each in side])
        holders = [{each for each in one if len(pieces & each.pieces) >= NEAR * len(pieces)} for one in sides]
        are_enough = len(holders[1]) >= FEWEST_EVALUATED and len(holders[0] | holders[1]) >= FEWEST_FOR_A_TEMPLATE
        if len(pieces) >= SHORTEST_TEMPLATE and are_enough:
            found = Told(found.pieces | pieces, (*found.sentences, words))
    return found


def _in_most(sets: Sequence[frozenset[str]]) -> frozenset[str]:
    counts = Counter(chain.from_iterable(sets))
    return frozenset(part for part, count in counts.items() if count > len(sets) / 2)


def _found(asked: Sequence[Told], among: Mapping[int, Told]) -> list[set[int]]:
    """For each of the prompts, the places of those that it is near to.

    Compared are only those that share one of their rarest pieces or words: two that are near must.
    """
    if not among:
        return [set() for _ in asked]
    own_pieces = frozenset().union(*(each.pieces for each in among.values()))
    own_words = frozenset().union(*(each.core for each in among.values()))
    pieces = Counter(chain.from_iterable(each.pieces & own_pieces for each in (*asked, *among.values())))
    words = Counter(chain.from_iterable(each.core & own_words for each in (*asked, *among.values())))
    holders, keys, by_piece = defaultdict(set), defaultdict(set), defaultdict(set)
    for place, each in among.items():
        for piece in each.pieces:
            by_piece[piece].add(place)
        for word in each.core:
            holders[word].add(place)
        for word in _rarest(each, words):
            keys[word].add(place)
    longest = max(len(each.pieces) for each in among.values())
    found = []
    for each in asked:
        fewest = math.ceil(NEAR * len(each.pieces))
        by_rarity = sorted(each.pieces, key=lambda piece: (pieces[piece], piece)) if fewest <= longest else []
        rarest = by_rarity[: len(each.pieces) - fewest + 1]
        candidates: set[int] = set().union(
            *(by_piece[piece] for piece in rarest if piece in by_piece),
            *(holders[word] for word in _rarest(each, words) if word in holders),
            *(keys[word] for word in each.core if word in keys),
        )
        found.append({place for place in candidates if is_near(each, among[place])})
    return found


def _rarest(prompt: Told, counts: Mapping[str, int]) -> list[str]:
    """The prompt's rarest telling words, more than may differ: whoever is near by its words has one of them."""
    rarest: list[str] = []
    for word in sorted(prompt.core, key=lambda word: (counts[word], word)):
        rarest.append(word)
        if _count(rarest) > 1:
            break
    return rarest
