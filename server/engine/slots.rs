//! Page tables, mirrored by slot from the rows' deltas.
//!
//! Trusts the scheduler for who owns a page; asserts what would read or write outside a table.
use minisgl_kernels::{PageId, Slot};

use crate::batch::{Batch, Capacity, Row};

/// A page table a slot.
#[derive(Debug)]
pub(super) struct Slots {
    tables: Vec<Vec<PageId>>,
    capacity: Capacity,
}

impl Slots {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self { tables: vec![Vec::new(); capacity.slots], capacity }
    }

    /// Takes a batch's deltas. Panics on a row that could not be run.
    pub(super) fn apply(&mut self, batch: &Batch) {
        for row in &batch.rows {
            let table = &mut self.tables[row.slot.0 as usize];
            if row.begin.is_some() {
                table.clear();
            }
            table.extend_from_slice(&row.new_pages);
            Self::check(&self.capacity, row, table);
        }
    }

    /// The slot's pages: page `i` holds positions `i * page_size ..`.
    pub(super) fn pages(&self, slot: Slot) -> &[PageId] {
        &self.tables[slot.0 as usize]
    }

    fn check(capacity: &Capacity, row: &Row, table: &[PageId]) {
        let (end, places) = (row.start + row.tokens.len(), table.len() * capacity.page_size);
        assert!(row.tokens.len() > 0, "a row of {:?} has no tokens", row.slot);
        assert!(end <= places, "a row of {:?} ends at {end}, its pages at {places}", row.slot);
        assert!(end <= capacity.context, "a row of {:?} ends at {end}, the context at {}", row.slot, capacity.context);
        assert!(row.new_pages.iter().all(|page| (page.0 as usize) < capacity.pages), "a page beyond the cache");
    }
}
