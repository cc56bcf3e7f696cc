//! Pages: who may use which page of the K/V cache. A page has one owner: pool (`free`), tree (`cached`) or a sequence's
//! table (`in_use`), and `free + cached + in_use == total`.
//!
//! Owns the pool, the prefix tree and the rule by which pages move between them. Knows no sequence, batch or byte.
use minisgl_config::CacheType;
use minisgl_kernels::{PageId, TokenId};

use crate::batch::Capacity;

mod pool;
mod radix;
#[cfg(test)]
mod tests;

use pool::{PageLease, PagePool};
pub(super) use radix::Hit;
use radix::{NodeId, RadixTree};

/// A sequence's pages in order: page `i` holds positions `i * page_size ..`. It only grows, because the engine mirrors it.
///
/// ```text
///   |── shared: the tree's, locked up to `end` ──|── own: leased to this table ──|
/// ```
#[derive(Debug)]
#[must_use = "a table is closed or discarded, else its pages are lost"]
pub(super) struct PageTable {
    end: NodeId,
    shared: Vec<PageId>,
    own: Vec<PageLease>,
}

impl PageTable {
    /// Its pages.
    pub(super) fn len(&self) -> usize {
        self.shared.len() + self.own.len()
    }

    /// Which they are.
    pub(super) fn pages(&self) -> impl Iterator<Item = PageId> {
        self.shared.iter().copied().chain(self.own.iter().map(PageLease::page))
    }
}

/// How many pages are whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageCounts {
    pub(super) free: usize,
    pub(super) cached: usize,
    pub(super) in_use: usize,
    pub(super) total: usize,
}

/// All pages. See the module's page.
#[derive(Debug)]
pub(super) struct Pages {
    page_size: usize,
    /// With [`CacheType::Naive`] nothing is put into the tree, so nothing is ever found there.
    cache: CacheType,
    pool: PagePool,
    tree: RadixTree,
    in_use: usize,
}

impl Pages {
    /// All free.
    pub(super) fn new(capacity: Capacity, cache: CacheType) -> Self {
        Self {
            page_size: capacity.page_size,
            cache,
            pool: PagePool::new(capacity.pages),
            tree: RadixTree::new(capacity.page_size),
            in_use: 0,
        }
    }

    /// Whether prefixes are kept.
    pub(super) fn keeps_prefixes(&self) -> bool {
        self.cache == CacheType::Radix
    }

    /// Pages that hold this many tokens.
    pub(super) fn pages_for(&self, places: usize) -> usize {
        places.div_ceil(self.page_size)
    }

    /// Tokens that a table has room for.
    pub(super) fn places(&self, table: &PageTable) -> usize {
        table.len() * self.page_size
    }

    /// Tokens of a table that others may find.
    pub(super) fn shared_places(&self, table: &PageTable) -> usize {
        table.shared.len() * self.page_size
    }

    /// Pages that a table could get now: the free ones, and the cached ones that nobody uses.
    pub(super) fn available(&self) -> usize {
        self.pool.free() + self.tree.evictable()
    }

    /// What the tree has of a prompt, but for its last token at least: that one must be fed to sample the next.
    pub(super) fn lookup(&self, tokens: &[TokenId]) -> Hit {
        self.tree.lookup(&tokens[..tokens.len().saturating_sub(1)])
    }

    /// A table that begins with a fresh hit, whose pages it locks.
    pub(super) fn open(&mut self, hit: Hit) -> PageTable {
        let (end, shared) = self.tree.lock(hit);
        PageTable { end, shared, own: Vec::new() }
    }

    /// Adds pages until the table has room for `places` tokens, or none is to be had, and appends them to `new_pages`.
    /// Returns for how many tokens there is room now, at most `places`.
    pub(super) fn grow(&mut self, table: &mut PageTable, places: usize, new_pages: &mut Vec<PageId>) -> usize {
        while self.places(table) < places {
            let Some(lease) = self.pool.lend().or_else(|| self.tree.evict()) else { break };
            self.in_use += 1;
            new_pages.push(lease.page());
            table.own.push(lease);
        }
        places.min(self.places(table))
    }

    /// Lets others find what a running table has computed, its whole pages, unless another's pages like these are already there.
    pub(super) fn share(&mut self, table: &mut PageTable, computed: &[TokenId]) {
        if !self.keeps_prefixes() {
            return;
        }
        let tokens = self.unshared(table, computed);
        // Another's pages are not locked in place of the table's own: that would hold twice what the sequence needs.
        if tokens.is_empty() || self.tree.continues(table.end, tokens) {
            return;
        }
        let leases: Vec<PageLease> = table.own.drain(..tokens.len() / self.page_size).collect();
        self.in_use -= leases.len();
        table.shared.extend(leases.iter().map(PageLease::page));
        table.end = self.tree.extend(table.end, tokens, leases);
    }

    /// Ends a table: its whole pages of `computed` go to the tree, the others to the pool.
    pub(super) fn close(&mut self, mut table: PageTable, computed: &[TokenId]) {
        self.in_use -= table.own.len();
        if self.keeps_prefixes() {
            let tokens = self.unshared(&table, computed);
            let leases = table.own.drain(..tokens.len() / self.page_size).collect();
            for duplicate in self.tree.insert(table.end, tokens, leases) {
                self.pool.release(duplicate);
            }
        }
        for lease in table.own {
            self.pool.release(lease);
        }
        self.tree.unlock(table.end);
    }

    /// Ends a table whose computation failed: what it computed is not kept, nor the prefix that it stood on as far as
    /// nobody else uses that, for it may be where the failure came from.
    pub(super) fn discard(&mut self, table: PageTable) {
        self.in_use -= table.own.len();
        self.tree.unlock(table.end);
        for lease in table.own.into_iter().chain(self.tree.forget(table.end)) {
            self.pool.release(lease);
        }
    }

    /// How many pages are whose.
    pub(super) fn counts(&self) -> PageCounts {
        PageCounts { free: self.pool.free(), cached: self.tree.cached(), in_use: self.in_use, total: self.pool.total() }
    }

    /// Every page has one owner, the counts are right, and each of `tables`, which are all there are, shares what it says.
    pub(super) fn check_integrity(&self, tables: &[&PageTable]) -> Result<(), String> {
        let ends: Vec<NodeId> = tables.iter().map(|table| table.end).collect();
        let cached = self.tree.check_integrity(&ends)?;
        let leased: Vec<PageId> = tables.iter().flat_map(|table| table.own.iter().map(PageLease::page)).collect();
        if leased.len() != self.in_use {
            return Err(format!("{} pages counted in use, {} leased", self.in_use, leased.len()));
        }
        let mut owners = vec![0; self.pool.total()];
        for page in self.pool.pages().chain(cached).chain(leased) {
            owners[page.0 as usize] += 1;
        }
        if let Some(page) = owners.iter().position(|&owners| owners != 1) {
            return Err(format!("page {page} has {} owners", owners[page]));
        }
        let counts = self.counts();
        if counts.free + counts.cached + counts.in_use != counts.total {
            return Err(format!("pages do not add up: {counts:?}"));
        }
        match tables.iter().find(|table| self.tree.pages_to(table.end) != table.shared) {
            Some(table) => Err(format!("a table shares other pages than it says: {table:?}")),
            None => Ok(()),
        }
    }

    /// The tokens of `computed`'s whole pages behind a table's shared ones.
    fn unshared<'a>(&self, table: &PageTable, computed: &'a [TokenId]) -> &'a [TokenId] {
        let whole = computed.len() / self.page_size * self.page_size;
        &computed[(table.shared.len() * self.page_size).min(whole)..whole]
    }
}
