//! The pool of free pages, and the lease that is the right to one.
//!
//! Owns every page that nobody uses. Knows nothing of tokens, prefixes or sequences.
use minisgl_kernels::PageId;

/// The right to one page. As many exist as pages, all made by [`PagePool::new`]; they are moved, never copied, so a page
/// has one owner: the pool, a node of the tree, or a sequence's table.
#[derive(Debug)]
#[must_use = "a lease that is dropped is a page lost"]
pub(super) struct PageLease(PageId);

impl PageLease {
    /// Which page.
    pub(super) fn page(&self) -> PageId {
        self.0
    }
}

/// The free pages.
#[derive(Debug)]
pub(super) struct PagePool {
    free: Vec<PageLease>,
    total: usize,
}

impl PagePool {
    /// All `total` pages, all free.
    pub(super) fn new(total: usize) -> Self {
        let total_u32 = u32::try_from(total).expect("page numbers are u32");
        Self { free: (0..total_u32).rev().map(|page| PageLease(PageId(page))).collect(), total }
    }

    /// Pages in all, whoever has them.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Pages to lend.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Lends a page.
    pub(super) fn lend(&mut self) -> Option<PageLease> {
        self.free.pop()
    }

    /// Takes a page back.
    pub(super) fn release(&mut self, lease: PageLease) {
        self.free.push(lease);
    }

    /// The free pages, for the integrity check.
    pub(super) fn pages(&self) -> impl Iterator<Item = PageId> {
        self.free.iter().map(PageLease::page)
    }
}
