"""Recognise how the labels of a task are spelled, and which scheme they follow.

A tag is "O", or a prefix and a type. The prefix is one letter, in either case. It stands before the
type or behind it, with one character between them: ``B-PER``, ``b_PER``, ``PER:B``. Without a type,
as in ``B``, the task has one type. All tags of a task are spelled alike.

A reading takes all labels of a list at once. It is believed where the list shows that the letters
are prefixes: where one type has several of them. What can be read two ways is refused, and the
error says which ``label_scheme`` chooses which reading.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from hf_semicrf.options import check

OUTSIDE = "O"
ONE_TYPE = "ENTITY"  # the type of tags that name none

PREFIXES = {
    "IOB2": "BI",
    "IOB1": "BI",
    "IOBES": "BIES",
    "BILOU": "BILU",
    "BMES": "BMES",
    "BMEWO": "BMEW",
    "BIEWO": "BIEW",
    "plain": "",
}
SUFFIXED = "-suffix"  # behind the name of a scheme whose prefixes stand behind the types
LETTERS = "BIESLU"
LATE_LETTERS = "MW"  # prefixes only in a list that has ends too: "W-2" is no entity of one word


class Spelling(NamedTuple):
    """How tags put a prefix and a type together.

    Args:
        separator: What stands between them; "" for tags that are prefixes alone.
        suffixed: Whether the prefix stands behind the type.
        lower: Whether it is in lower case.
    """

    separator: str = "-"
    suffixed: bool = False
    lower: bool = False

    def split(self, tag: str, letters: str = LETTERS + LATE_LETTERS) -> tuple[str, str]:
        """The prefix in upper case and the type; "" and the tag where it is spelled otherwise.

        Args:
            tag: A tag.
            letters: The prefixes, in upper case.
        """
        if not self.separator:
            letter, separator, type_name = tag, "", ONE_TYPE
        elif self.suffixed:
            letter, separator, type_name = tag[-1:], tag[-2:-1], tag[:-2]
        else:
            letter, separator, type_name = tag[:1], tag[1:2], tag[2:]
        known = letters.lower() if self.lower else letters
        if len(letter) == 1 and letter in known and separator == self.separator and type_name:
            return letter.upper(), type_name
        return "", tag

    def join(self, prefix: str, type_name: str) -> str:
        """The tag of a prefix in upper case and a type."""
        prefix = prefix.lower() if self.lower else prefix
        if not self.separator:
            return prefix
        parts = (type_name, prefix) if self.suffixed else (prefix, type_name)
        return self.separator.join(parts)


STANDARD = Spelling()


class Reading(NamedTuple):
    """One way to read the labels of a task.

    Args:
        name: The scheme.
        spelling: The spelling of the tags.
    """

    name: str
    spelling: Spelling = STANDARD

    @property
    def setting(self) -> str:
        """The ``label_scheme`` that chooses this reading."""
        return self.name + SUFFIXED * self.spelling.suffixed


class _Evidence(NamedTuple):
    """What the labels that are spelled alike show.

    Args:
        spelling: Their spelling.
        prefixes: The prefixes of each type.
    """

    spelling: Spelling
    prefixes: Mapping[str, set[str]]

    @property
    def letters(self) -> set[str]:
        return set().union(*self.prefixes.values())

    @property
    def scheme(self) -> str | None:
        """The first scheme that has all prefixes; None where no scheme does."""
        letters = self.letters
        if letters <= set(PREFIXES["IOB2"]):
            # a type that never begins with B- can only be one of IOB1
            return "IOB2" if all("B" in own for own in self.prefixes.values()) else "IOB1"
        return next((name for name, own in PREFIXES.items() if letters <= set(own)), None)

    @property
    def is_strong(self) -> bool:
        """Whether the letters are prefixes beyond doubt: some type has several of them.

        In the usual spelling two of any kind do. In others two may be chance, as in vitamin_b and
        vitamin_e, unless they are those of a beginning and of an inside.
        """
        if self.spelling == STANDARD:
            return any(len(own) > 1 for own in self.prefixes.values())
        return any(
            len(own) > 2 or ("B" in own and bool(own & {"I", "M"}))
            for own in self.prefixes.values()
        )

    @property
    def is_usual(self) -> bool:
        """Whether labels in the usual spelling show prefixes although no type has several.

        They may all have one prefix, or those of IOB1. Then types are words: 95 and 52 in I-95 and
        B-52 are none.
        """
        few = len(self.letters) == 1 or self.letters == set("BI")
        words = all(any(map(str.isalpha, name)) for name in self.prefixes)
        return self.spelling == STANDARD and few and words


def recognise(tags: Sequence[str]) -> Reading:
    """The one way to read the entity labels of a task, "O" not among them.

    Raises:
        ValueError: There are several ways, or labels with prefixes stand beside others.
    """
    groups = [group for s in _spellings(tags) if (group := _evidence(tags, s)).prefixes]
    whole = [group for group in groups if _covers(group, tags)]
    readings = [group for group in whole if group.scheme is not None]
    strong = [group for group in readings if group.is_strong]
    if len(strong) == 1 or (not strong and len(readings) == 1 and readings[0].is_usual):
        chosen = (strong or readings)[0]
        return Reading(str(chosen.scheme), chosen.spelling)
    if readings:
        ways = [Reading(str(group.scheme), group.spelling) for group in strong or readings]
        if not strong:
            ways.append(Reading("plain"))
        raise ValueError(_two_ways(tags, ways))
    for group in groups:
        if not (group.is_strong or group.spelling == STANDARD):
            continue  # words that happen to look like tags
        if group.scheme is not None:
            bare = next(tag for tag in tags if not group.spelling.split(tag, _letters(group))[0])
            raise ValueError(
                f"expected prefixes such as B- and I- on every label but 'O' or on none, got "
                f"{bare!r:.80} in {listed(tags)}; if no label is meant to have a prefix, pass "
                "label_scheme='plain'"
            )
        if group.letters & set("BIM"):  # without them, nothing says that these are prefixes
            raise ValueError(_no_scheme(group.letters, tags))
    return Reading("plain")


def choose(tags: Sequence[str], setting: str) -> Reading:
    """The reading of entity labels that a ``label_scheme`` names.

    Args:
        tags: The labels, "O" not among them.
        setting: A name of `PREFIXES`, with "-suffix" behind it where the prefixes of labels that
            can be read both ways stand behind the types.

    Raises:
        ValueError: There is no such scheme, or a label does not follow it.
    """
    check(optional=False, label_scheme=setting)
    name = setting.removesuffix(SUFFIXED)
    if name == "plain":
        return Reading(name)
    letters, suffixed = PREFIXES[name], setting != name
    spellings = sorted(_spellings(tags, letters), key=lambda s: (s.suffixed, s != STANDARD))
    spellings = [s for s in spellings if s.suffixed or not suffixed]
    for spelling in spellings:
        if all(spelling.split(tag, letters)[0] for tag in tags):
            return Reading(name, spelling)
    nearest = spellings[0] if spellings else Spelling(suffixed=suffixed)
    wrong = next(tag for tag in tags if not nearest.split(tag, letters)[0])
    expected = ", ".join(
        nearest.join(prefix, "") if nearest.separator else prefix for prefix in letters
    )
    raise ValueError(f"expected {name} tags ({expected} + type, or O), got {wrong!r:.80}")


def _spellings(tags: Sequence[str], letters: str = LETTERS + LATE_LETTERS) -> list[Spelling]:
    """The spellings that some tag may have, the most frequent first."""
    counts: Counter[Spelling] = Counter()
    either_case = letters + letters.lower()
    for tag in tags:
        ends = [(tag[0], "", False)] if len(tag) == 1 else []
        if len(tag) > 2:
            ends = [(tag[0], tag[1], False), (tag[-1], tag[-2], True)]
        for letter, separator, suffixed in ends:
            if letter in either_case and not separator.isalnum():
                counts[Spelling(separator, suffixed, letter.islower())] += 1
    return [spelling for spelling, _ in counts.most_common()]


def _evidence(tags: Sequence[str], spelling: Spelling) -> _Evidence:
    """What the tags of a spelling show; those of another are left out."""
    split = [spelling.split(tag) for tag in tags]
    if not any(prefix == "E" for prefix, _ in split):
        split = [spelling.split(tag, LETTERS) for tag in tags]
    prefixes: dict[str, set[str]] = defaultdict(set)
    for prefix, type_name in split:
        if prefix:
            prefixes[type_name].add(prefix)
    return _Evidence(spelling, prefixes)


def _letters(group: _Evidence) -> str:
    """The prefixes that a group's labels may have."""
    return LETTERS + LATE_LETTERS * ("E" in group.letters)


def _covers(group: _Evidence, tags: Sequence[str]) -> bool:
    """Whether all tags are spelled as those of a group."""
    letters = _letters(group)
    return all(group.spelling.split(tag, letters)[0] for tag in tags)


def _two_ways(tags: Sequence[str], ways: Sequence[Reading]) -> str:
    """What is wrong with labels that can be read in several ways."""
    said = []
    for way in ways:
        types = dict.fromkeys(
            tag if way.name == "plain" else way.spelling.split(tag)[1] for tag in tags
        )
        said.append(f"label_scheme={way.setting!r} for {listed(types, 4)}")
    return (
        f"expected labels that can be read in one way, got {listed(tags)}; what are the entity "
        f"types? Pass {' or '.join(said)}"
    )


def _no_scheme(letters: set[str], tags: Sequence[str]) -> str:
    """What is wrong with prefixes that no scheme has together."""
    pairs = [(a, b) for a in sorted(letters) for b in sorted(letters) if a < b]
    apart = [p for p in pairs if not any(set(p) <= set(own) for own in PREFIXES.values())]
    first, second = apart[0] if apart else (sorted(letters)[0], sorted(letters)[-1])
    schemes = ", ".join(f"{name} ({' '.join(own)})" for name, own in PREFIXES.items() if own)
    return (
        f"expected the prefixes of one scheme among {schemes}, got both {first} and {second} in "
        f"{listed(tags)}; if no label is meant to have a prefix, pass label_scheme='plain'"
    )


def listed(names: Collection[Any], most: int = 20) -> str:
    """Names in a message, the first of many and of each the first letters."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    shown = (repr(name) for name in list(names)[:most])
    return f"[{', '.join(name if len(name) <= 80 else name[:77] + '...' for name in shown)}]{more}"
