"""Text found on any machine with Python: library code, reference prose, worked arithmetic.

The unit of the train/held-out split is the *group*: all that comes from one module (its code, its
docstrings, its chat turns) falls on one side. Documents that mostly repeat lines already seen are
dropped before the split, licence blocks before that.
"""

import ast
import hashlib
import importlib
import inspect
import json
import pydoc_data.topics
import random
import re
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dspark.training.arithmetic import worked_page, worked_problem

DOMAINS = ("code", "prose", "arithmetic")
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data"}
_LICENCE = re.compile(r"licen[cs]e|copyright|all rights reserved|warrant(y|ies)", re.IGNORECASE)
_C_MODULES = (  # noqa: SIM905  # 37 quoted names would be harder to read
    "builtins math cmath itertools time array zlib binascii errno fcntl gc _io marshal mmap "
    "operator posix select signal sys unicodedata _collections _functools _socket _ssl _struct "
    "_sqlite3 _thread _ctypes _csv _datetime _decimal _elementtree _heapq _json _pickle _random"
).split()


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSettings:
    """What to collect and how to split it."""

    seed: int = 7
    held_out_fraction: float = 0.06
    """Share of groups kept out of training."""
    chunk_chars: int = 4000
    """Source files are cut at top-level statements into documents of about this size."""
    max_file_chars: int = 150_000
    """Longer files (tables, generated code) are left out."""
    test_file_fraction: float = 0.6
    """Share of the standard library's own tests that is kept."""
    num_arithmetic: int = 9000
    """Arithmetic documents, each of one problem (chat) or a page of up to five."""
    chat_fraction: float = 0.25
    """Aimed share of documents in chat form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text; ``question`` is None for plain text, else the user's turn of a chat."""

    domain: str
    group: str
    text: str
    question: str | None = None


def strip_licence(source: str) -> str:
    """Drop comment blocks that speak of licences or copyright."""
    kept: list[str] = []
    block: list[str] = []
    for line in [*source.splitlines(), ""]:
        if line.lstrip().startswith("#"):
            block.append(line)
            continue
        if block and not any(_LICENCE.search(part) for part in block):
            kept.extend(block)
        block = []
        kept.append(line)
    return "\n".join(kept).strip("\n") + "\n"


def cut_source(source: str, chunk_chars: int) -> list[str]:
    """Cut a source text into pieces of about ``chunk_chars`` at top-level definitions."""
    pieces: list[str] = []
    current: list[str] = []
    size = 0
    for line in source.splitlines(keepends=True):
        top = line.startswith(("def ", "class ", "@", "async def "))
        inner = line.startswith(("    def ", "    @")) and size > 1.5 * chunk_chars
        after_decorator = bool(current) and current[-1].lstrip().startswith("@")
        if ((size >= chunk_chars and top) or inner) and not after_decorator:
            pieces.append("".join(current))
            current, size = [], 0
        current.append(line)
        size += len(line)
    pieces.append("".join(current))
    return [piece.strip("\n") + "\n" for piece in pieces if len(piece.strip()) > 80]


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.ClassDef):
        return node.name
    return f"{node.name}({ast.unparse(node.args)})"


def _plain(doc: str) -> str:
    return inspect.cleandoc(doc).strip()


def _lower_first(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() else sentence


def _first_sentence(doc: str) -> str:
    return re.split(r"(?<=[.!?])\s|\n\n", " ".join(doc.split("\n\n")[0].split()))[0].rstrip(".")


def _definitions(
    tree: ast.AST, prefix: str
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}.{node.name}"
            yield name, node
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node, name)


def _reference_chat(rng: random.Random, group: str, name: str, doc: str) -> Document:
    question = rng.choice(
        ("What does {} do?", "What is {} for?", "Explain {}.", "Describe {} in Python.")
    ).format(name)
    return Document(domain="prose", group=group, text=doc[:1200].strip(), question=question)


def source_documents(path: Path, module: str, cfg: CorpusSettings) -> list[Document]:
    """Make the documents of one source file: code, its reference pages and chat turns."""
    group = f"module:{module}"
    rng = random.Random(f"{cfg.seed}:{module}")
    try:
        source = strip_licence(path.read_text(encoding="utf-8").expandtabs(8))
        tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return []
    documents = [
        Document(domain="code", group=group, text=piece)
        for piece in cut_source(source, cfg.chunk_chars)
    ]
    is_test = module.startswith("test.") or ".test" in module
    page: list[str] = []
    module_doc = ast.get_docstring(tree)
    if module_doc and not is_test and not _LICENCE.search(module_doc):
        page.append(f"{module}\n\n{_plain(module_doc)}\n")
    for name, node in _definitions(tree, module):
        doc = ast.get_docstring(node)
        if not doc or len(doc) < 40 or _LICENCE.search(doc):
            continue
        doc = _plain(doc)
        if not is_test:
            body = textwrap.indent(doc, "    ")
            page.append(f"{name.rsplit('.', 1)[0]}.{_signature(node)}\n{body}\n")
            if len(doc) > 60 and rng.random() < 0.6:
                documents.append(_reference_chat(rng, group, name, doc))
        if isinstance(node, ast.FunctionDef) and not is_test:
            code = textwrap.dedent(ast.get_source_segment(source, node, padded=True) or "")
            if 80 < len(code) < 1500 and rng.random() < 0.7:
                wish = _lower_first(_first_sentence(doc))
                question = f"Write a Python function {node.name} that does this: {wish}."
                answer = f"```python\n{code.strip()}\n```"
                documents.append(
                    Document(domain="code", group=group, text=answer, question=question)
                )
    current = ""
    for entry in page:
        if current and len(current) + len(entry) > cfg.chunk_chars:
            documents.append(Document(domain="prose", group=group, text=current))
            current = ""
        current += ("\n" if current else "") + entry[: 2 * cfg.chunk_chars]
    if len(current) > 100:
        documents.append(Document(domain="prose", group=group, text=current))
    return documents


def _standard_library(cfg: CorpusSettings) -> Iterator[Document]:
    root = Path(sysconfig.get_paths()["stdlib"])
    rng = random.Random(cfg.seed)
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED_FOLDERS & set(relative.parts) or path.stat().st_size > cfg.max_file_chars:
            continue
        is_test = relative.parts[0] == "test" or "tests" in relative.parts
        if is_test and rng.random() >= cfg.test_file_fraction:
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        yield from source_documents(path, module, cfg)


def _topics(cfg: CorpusSettings) -> Iterator[Document]:
    for name, text in sorted(pydoc_data.topics.topics.items()):
        group = f"topic:{name}"
        paragraphs = text.strip().split("\n\n")
        current = ""
        for paragraph in paragraphs:
            if current and len(current) + len(paragraph) > cfg.chunk_chars:
                yield Document(domain="prose", group=group, text=current)
                current = ""
            current += paragraph + "\n\n"
        if len(current) > 100:
            yield Document(domain="prose", group=group, text=current.strip() + "\n")
        if len(text) < 6000:
            title = paragraphs[0].split("\n")[0]
            answer = "\n\n".join(paragraphs[1:])[:1500].strip()
            if answer and len(title) < 80:
                yield Document(
                    domain="prose", group=group, text=answer, question=f"Explain this: {title}."
                )


def _c_docstrings(cfg: CorpusSettings) -> Iterator[Document]:
    for module_name in _C_MODULES:
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        group = f"module:{module_name}"
        rng = random.Random(f"{cfg.seed}:{module_name}")
        current = ""
        for name, value in sorted(vars(module).items()):
            owners = [(f"{module_name}.{name}", value)]
            if inspect.isclass(value):
                owners += [(f"{module_name}.{name}.{k}", v) for k, v in sorted(vars(value).items())]
            for full, item in owners:
                doc = getattr(item, "__doc__", None)
                if not isinstance(doc, str) or len(doc) < 60 or _LICENCE.search(doc):
                    continue
                if not callable(item) and not inspect.isclass(item):
                    continue
                doc = _plain(doc)
                public = full.replace("._", ".").lstrip("_")
                current += f"{public}\n{textwrap.indent(doc, '    ')}\n\n"
                if rng.random() < 0.6:
                    yield _reference_chat(rng, group, public, doc)
                if len(current) > cfg.chunk_chars:
                    yield Document(domain="prose", group=group, text=current)
                    current = ""
        if len(current) > 100:
            yield Document(domain="prose", group=group, text=current)


def _arithmetic(cfg: CorpusSettings) -> Iterator[Document]:
    rng = random.Random(f"{cfg.seed}:arithmetic")
    for index in range(cfg.num_arithmetic):
        group = f"arithmetic:{index}"
        if rng.random() < 0.5:
            question, answer = worked_problem(rng)
            yield Document(domain="arithmetic", group=group, text=answer, question=question)
        else:
            page = worked_page(rng, rng.randint(2, 5))
            yield Document(domain="arithmetic", group=group, text=page)


def drop_near_duplicates(documents: list[Document], threshold: float = 0.5) -> list[Document]:
    """Drop documents of which more than ``threshold`` of the long lines were seen before.

    Lines count once they are 20 characters long; documents are compared within their domain and
    form, for a reference page or a chat turn restates its module's code on purpose. Arithmetic is
    drawn fresh and kept as it is.
    """
    seen: dict[tuple[str, bool], set[int]] = {}
    kept: list[Document] = []
    for document in documents:
        if document.domain == "arithmetic":
            kept.append(document)
            continue
        known = seen.setdefault((document.domain, document.question is not None), set())
        lines = [hash_line(line) for line in document.text.splitlines() if len(line.strip()) >= 20]
        if lines and sum(line in known for line in lines) > threshold * len(lines):
            continue
        known.update(lines)
        kept.append(document)
    return kept


def hash_line(line: str) -> int:
    """Hash a line, blind to indentation and digits."""
    text = re.sub(r"\d", "0", " ".join(line.split()))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def split(documents: list[Document], cfg: CorpusSettings) -> tuple[list[Document], list[Document]]:
    """Split by group into (train, held out), by a hash of the group's name and the seed.

    A module and its tests share a group key, for tests quote the documentation of their module.
    Held-out documents that repeat more than 20 % of their long lines from training are dropped.
    """
    train: list[Document] = []
    held: list[Document] = []
    for document in documents:
        key = re.sub(r"^module:(test\.)?(test_)?_?", "module:", document.group)
        digest = hashlib.blake2b(f"{cfg.seed}:{key}".encode(), digest_size=8).digest()
        share = int.from_bytes(digest, "big") / 2**64
        (held if share < cfg.held_out_fraction else train).append(document)
    known = {hash_line(line) for doc in train for line in doc.text.splitlines()}
    clean = []
    for document in held:
        lines = [line for line in document.text.splitlines() if len(line.strip()) >= 20]
        shared = sum(hash_line(line) in known for line in lines)
        if document.domain == "arithmetic" or shared <= 0.2 * len(lines):
            clean.append(document)
    return train, clean


def _thin_chat(documents: list[Document], cfg: CorpusSettings) -> list[Document]:
    """Drop chat turns of code and prose, at random, down to the aimed share of all documents."""
    chat = [d for d in documents if d.question is not None and d.domain != "arithmetic"]
    plain = [d for d in documents if d.question is None or d.domain == "arithmetic"]
    wanted = int(cfg.chat_fraction * len(plain) / (1 - cfg.chat_fraction))
    random.Random(cfg.seed).shuffle(chat)
    return plain + chat[:wanted]


def collect(cfg: CorpusSettings) -> tuple[list[Document], list[Document]]:
    """Collect every document of this machine and return (train, held out)."""
    documents = [
        *_standard_library(cfg),
        *_topics(cfg),
        *_c_docstrings(cfg),
        *_arithmetic(cfg),
    ]
    documents = drop_near_duplicates(_thin_chat(documents, cfg))
    return split(documents, cfg)


def write_documents(path: Path, documents: list[Document]) -> None:
    """Write documents as JSON lines."""
    with path.open("w", encoding="utf-8") as out:
        for document in documents:
            out.write(json.dumps(asdict(document)) + "\n")


def read_documents(path: Path) -> list[Document]:
    """Read documents written by ``write_documents``."""
    with path.open(encoding="utf-8") as lines:
        return [Document(**json.loads(line)) for line in lines]
