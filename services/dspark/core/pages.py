"""Pages of a KV pool: who holds which, and which may be shared.

A page holds ``page_tokens`` consecutive positions of one sequence.  A session reserves all
the pages that it can ever need when it is admitted, or none.  A full page whose content is
computed can be published under a chained hash of its tokens and all before them; a later
session with the same prefix shares it.  Shared pages are never written: a session writes only
from ``PageTable.cached_tokens`` on.  A published page that nobody holds stays cached until its
room is needed, least recently used first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise


def page_hashes(
    token_ids: Sequence[int], page_tokens: int, *, root: bytes = b""
) -> tuple[bytes, ...]:
    """Chained digests of the full pages of ``token_ids``, 16 bytes each.

    Args:
        token_ids: A sequence from position 0.
        page_tokens: Tokens in a page.
        root: Parent of the first page, say a digest of the model.

    Returns:
        One digest for each full page; equal digests mean equal tokens up to that page's end.
    """
    digests = []
    parent = root
    for stop in range(page_tokens, len(token_ids) + 1, page_tokens):
        tokens = token_ids[stop - page_tokens : stop]
        content = b"".join(token.to_bytes(4, "little") for token in tokens)
        parent = blake2b(parent + content, digest_size=16).digest()
        digests.append(parent)
    return tuple(digests)


@dataclass(slots=True, eq=False)
class PageTable:
    """The pages of one session, in position order.

    Attributes:
        pages: Page ids.
        cached_tokens: Leading positions whose content was there already; never write these.
    """

    pages: tuple[int, ...]
    cached_tokens: int
    _held: bool = True


class PageAllocator:
    """Hands out pages; mutable, for one thread."""

    def __init__(self, num_pages: int, page_tokens: int) -> None:
        if num_pages < 1 or page_tokens < 1:
            raise ValueError(f"{num_pages} pages of {page_tokens} tokens are no pool")
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self._empty = list(range(num_pages - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # published, unheld, oldest first
        self._holders = [0] * num_pages
        self._hash_of: dict[int, bytes] = {}
        self._page_of: dict[bytes, int] = {}

    @property
    def free_pages(self) -> int:
        """Pages that a reservation could take: empty ones and cached ones that nobody holds."""
        return len(self._empty) + len(self._idle)

    @property
    def cached_pages(self) -> int:
        """Published pages that nobody holds."""
        return len(self._idle)

    def pages_for(self, num_tokens: int) -> int:
        """How many pages hold ``num_tokens`` tokens."""
        return -(-num_tokens // self.page_tokens)

    def cached_prefix(self, prefix_hashes: Sequence[bytes]) -> int:
        """How many leading pages of this chain are here."""
        count = 0
        while count < len(prefix_hashes) and prefix_hashes[count] in self._page_of:
            count += 1
        return count

    def reserve(self, num_tokens: int, prefix_hashes: Sequence[bytes] = ()) -> PageTable | None:
        """Reserve pages for ``num_tokens`` tokens: all of them, or None.

        Args:
            num_tokens: Everything that the session may ever hold, at least 1.
            prefix_hashes: `page_hashes` of the prefix that may be shared.  Leave out the page
                of the last prompt token, which is always computed for its logits.

        Returns:
            The table, or None when the pages are not there; then nothing changed.
        """
        if num_tokens < 1:
            raise ValueError(f"a reservation of {num_tokens} tokens is none")
        needed = self.pages_for(num_tokens)
        num_shared = min(self.cached_prefix(prefix_hashes), needed)
        shared = [self._page_of[digest] for digest in prefix_hashes[:num_shared]]
        idle_shared = sum(1 for page in shared if self._holders[page] == 0)
        if needed - num_shared > self.free_pages - idle_shared:
            return None
        for page in shared:
            self._idle.pop(page, None)
            self._holders[page] += 1
        fresh = [self._take() for _ in range(needed - num_shared)]
        return PageTable(pages=(*shared, *fresh), cached_tokens=num_shared * self.page_tokens)

    def publish(self, table: PageTable, hashes: Sequence[bytes]) -> None:
        """Let others share the leading pages of ``table``, whose content is now computed.

        Args:
            table: A held table.
            hashes: `page_hashes` of its leading full pages; a chain that is here already
                under another page stays with that page.
        """
        assert table._held, "a released table cannot be published"
        assert len(hashes) <= len(table.pages), "more hashes than pages"
        for page, digest in zip(table.pages, hashes, strict=False):
            if digest not in self._page_of and page not in self._hash_of:
                self._page_of[digest] = page
                self._hash_of[page] = digest

    def release(self, table: PageTable) -> None:
        """Give a table's pages back; once only."""
        assert table._held, "a table is released once"
        table._held = False
        # Last page first: a chain is useless without its head, so its tail is evicted first.
        for page in reversed(table.pages):
            self._holders[page] -= 1
            assert self._holders[page] >= 0, f"page {page} was freed twice"
            if self._holders[page] == 0:
                if page in self._hash_of:
                    self._idle[page] = None
                else:
                    self._empty.append(page)

    def check(self) -> None:
        """Assert that every page is in exactly one place."""
        held = [page for page, holders in enumerate(self._holders) if holders]
        places = sorted([*self._empty, *self._idle, *held])
        assert places == list(range(self.num_pages)), "a page is lost or in two places"
        assert all(low < high for low, high in pairwise(places))
        assert {page: digest for digest, page in self._page_of.items()} == self._hash_of

    def _take(self) -> int:
        if self._empty:
            page = self._empty.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._hash_of.pop(page)]
        assert self._holders[page] == 0, f"page {page} is held"
        self._holders[page] = 1
        return page
