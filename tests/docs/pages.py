"""The project's Markdown pages, as far as the tests of the docs have to understand them."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATHS = (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")))
NAMES = [str(path.relative_to(ROOT)) for path in PATHS]

SHELL = frozenset({"sh", "console"})
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+?) *$", re.MULTILINE)
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_SEPARATORS = frozenset({"|", "||", "&", "&&", ";", "(", ")", ">", ">>", "<", "$("})


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A fenced block of code."""

    language: str
    text: str


def read(name: str) -> str:
    """Answer a page, such as "docs/api.md"."""
    return (ROOT / name).read_text()


def blocks(text: str) -> list[Block]:
    """Answer the fenced blocks of a page."""
    return [Block(language=language, text=body) for language, body in _FENCE.findall(text)]


def prose(text: str) -> str:
    """Answer a page without its fenced blocks."""
    return _FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """Answer the anchors that a page's headings get, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found = set()
    for _, title in _HEADING.findall(prose(text)):
        plain = _LINK.sub(lambda link: link[0][1 : link[0].index("](")], title)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(text: str) -> list[str]:
    """Answer the targets of a page's links."""
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(text)))


def sections(text: str, level: int) -> dict[str, str]:
    """Answer the text below each heading of this level, up to the next of the same or a higher one."""
    marks = [(len(found[1]), found[2], found.start(), found.end()) for found in _HEADING.finditer(_blank(text))]
    ends = [
        next((start for depth_, _, start, _ in marks[index + 1 :] if depth_ <= depth), len(text))
        for index, (depth, *_) in enumerate(marks)
    ]
    return {title: text[end:stop] for (depth, title, _, end), stop in zip(marks, ends, strict=True) if depth == level}


def _blank(text: str) -> str:
    """Answer the text with its fenced blocks blanked, every position kept: a comment in a block is no heading."""
    return _FENCE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def tables(text: str) -> list[list[list[str]]]:
    """Answer the tables of a text, each as rows of cells; the heading is the first row."""
    found: list[list[list[str]]] = []
    inside = False
    for line in prose(text).splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not inside:
            found.append([])
            inside = True
        if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            found[-1].append(cells)
    return found


def rows(text: str, *heading: str) -> list[list[str]]:
    """Answer the rows of all tables of a text that have this heading."""
    return [row for table in tables(text) if table[0] == list(heading) for row in table[1:]]


def code(cell: str) -> str:
    """Answer what the first code span of a cell holds, or the cell itself if it has none."""
    found = re.search(r"`([^`]+)`", cell)
    return found[1] if found else cell


def between(text: str, mark: str) -> str:
    """Answer what stands between the markers `<!-- mark: begin -->` and `<!-- mark: end -->`."""
    begin, end = (f"<!-- {mark}: {which} -->" for which in ("begin", "end"))
    assert text.count(begin) == text.count(end) == 1, f"the markers of {mark} have to be there once"
    return text.partition(begin)[2].partition(end)[0].strip()


def shell_lines(block: Block) -> Iterator[str]:
    """Answer the command lines of a shell block: all lines of `sh`, those after the prompt of `console`."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "sh":
            yield line
        elif line.startswith("$ "):
            yield line.removeprefix("$ ")


def invocations(line: str, program: str) -> Iterator[Sequence[str]]:
    """Answer the arguments of each call of `program` in a command line, those in `$(...)` too."""
    for inner in re.findall(r"\$\(([^()]*)\)", line):
        yield from invocations(inner, program)
    lexer = shlex.shlex(re.sub(r"\$\([^()]*\)", "SUBSTITUTED", line), posix=True, punctuation_chars=True)
    lexer.commenters = "#"
    words: list[str] = []
    for token in [*lexer, ";"]:
        if token in _SEPARATORS:
            yield from _call(words, program)
            words = []
        else:
            words.append(token)


def _call(words: Sequence[str], program: str) -> Iterator[Sequence[str]]:
    command = 0
    while command < len(words) and re.fullmatch(r"[A-Z_]+=.*", words[command]):
        command += 1
    if command < len(words) and Path(words[command]).name == program:
        yield words[command + 1 :]
