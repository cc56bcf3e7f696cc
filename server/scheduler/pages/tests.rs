//! The tree against a list of prefixes, and the moves of pages between owners.
use std::collections::HashMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

fn pages(total: usize, page_size: usize) -> Pages {
    let capacity = Capacity { pages: total, page_size, slots: 1, context: 1, vocabulary: 1, batch_tokens: 1 };
    Pages::new(capacity, CacheType::Radix)
}

/// A table for all of `tokens`, hit included.
fn table(pages: &mut Pages, tokens: &[TokenId]) -> PageTable {
    let hit = pages.lookup(tokens);
    let mut table = pages.open(hit);
    assert_eq!(pages.grow(&mut table, tokens.len(), &mut Vec::new()), tokens.len());
    table
}

/// Computes a sequence from start to end.
fn run(pages: &mut Pages, tokens: &[TokenId]) {
    let table = table(pages, tokens);
    pages.close(table, tokens);
    assert_eq!(pages.check_integrity(&[]), Ok(()));
}

fn tokens(range: std::ops::Range<u32>) -> Vec<TokenId> {
    range.collect()
}

#[test]
fn a_hit_is_whole_pages_and_leaves_a_token() {
    let mut pages = pages(10, 4);
    run(&mut pages, &tokens(0..11));
    assert_eq!(pages.counts(), PageCounts { free: 8, cached: 2, in_use: 0, total: 10 });
    assert_eq!(pages.lookup(&tokens(0..11)).pages, 2);
    assert_eq!(pages.lookup(&tokens(0..9)).pages, 2);
    assert_eq!(pages.lookup(&tokens(0..8)).pages, 1);
    assert_eq!(pages.lookup(&tokens(0..4)).pages, 0);
    assert_eq!(pages.lookup(&[]).pages, 0);
    assert_eq!(pages.lookup(&[0, 1, 2, 3, 9, 9, 9, 9, 9]).pages, 1);
    assert_eq!(pages.lookup(&tokens(4..11)).pages, 0);
}

#[test]
fn eviction_takes_the_least_recently_used_from_its_end() {
    let mut pages = pages(6, 2);
    run(&mut pages, &tokens(0..6));
    run(&mut pages, &tokens(10..16));
    assert_eq!(pages.counts().free, 0);
    run(&mut pages, &tokens(0..6)); // used again: the other goes first
    let held = table(&mut pages, &tokens(20..24));
    assert_eq!(pages.lookup(&tokens(0..7)).pages, 3);
    assert_eq!(pages.lookup(&tokens(10..17)).pages, 1);
    let more = table(&mut pages, &tokens(30..34));
    assert_eq!(pages.lookup(&tokens(0..7)).pages, 2);
    assert_eq!(pages.lookup(&tokens(10..17)).pages, 0);
    assert_eq!(pages.check_integrity(&[&held, &more]), Ok(()));
    pages.close(held, &tokens(20..24));
    pages.close(more, &[]);
    assert_eq!(pages.counts(), PageCounts { free: 2, cached: 4, in_use: 0, total: 6 });
}

#[test]
fn locked_pages_stay() {
    let mut pages = pages(4, 2);
    run(&mut pages, &tokens(0..8));
    // Locks the first two pages of the edge and no more.
    let hit = pages.lookup(&tokens(0..5));
    let mut table = pages.open(hit);
    assert_eq!(pages.available(), 2);
    let mut new_pages = Vec::new();
    assert_eq!(pages.grow(&mut table, 100, &mut new_pages), 8);
    assert_eq!((new_pages.len(), table.len(), pages.available()), (2, 4, 0));
    assert_eq!(pages.check_integrity(&[&table]), Ok(()));
    pages.close(table, &[]);
    assert_eq!(pages.counts(), PageCounts { free: 2, cached: 2, in_use: 0, total: 4 });
}

#[test]
fn pages_that_another_cached_first_stay_leased_to_the_end() {
    let mut pages = pages(8, 2);
    let mut first = table(&mut pages, &tokens(0..6));
    let mut second = table(&mut pages, &tokens(0..8));
    pages.share(&mut first, &tokens(0..6));
    pages.share(&mut second, &tokens(0..6));
    assert_eq!(pages.counts(), PageCounts { free: 1, cached: 3, in_use: 4, total: 8 });
    assert_eq!(pages.check_integrity(&[&first, &second]), Ok(()));
    pages.close(first, &tokens(0..6));
    // The second locks none of the first's pages: all that it does not have itself is to be had.
    assert_eq!(pages.available(), 4);
    pages.close(second, &tokens(0..8));
    assert_eq!(pages.counts(), PageCounts { free: 4, cached: 4, in_use: 0, total: 8 });
    assert_eq!(pages.check_integrity(&[]), Ok(()));
}

#[test]
fn what_failed_is_not_found_again() {
    let mut pages = pages(8, 2);
    run(&mut pages, &tokens(0..4));
    let mut failing = table(&mut pages, &tokens(0..8));
    pages.share(&mut failing, &tokens(0..6));
    let other = table(&mut pages, &tokens(0..4));
    pages.discard(failing);
    assert_eq!(pages.check_integrity(&[&other]), Ok(()));
    // What another still uses stays.
    assert_eq!(pages.lookup(&tokens(0..8)).pages, 1);
    pages.discard(other);
    assert_eq!(pages.counts(), PageCounts { free: 8, cached: 0, in_use: 0, total: 8 });
}

#[test]
fn naive_keeps_nothing() {
    let capacity = Capacity { pages: 4, page_size: 2, slots: 1, context: 1, vocabulary: 1, batch_tokens: 1 };
    let mut pages = Pages::new(capacity, CacheType::Naive);
    let mut held = table(&mut pages, &tokens(0..8));
    pages.share(&mut held, &tokens(0..8));
    assert_eq!(pages.counts(), PageCounts { free: 0, cached: 0, in_use: 4, total: 4 });
    pages.close(held, &tokens(0..8));
    assert_eq!(pages.counts().free, 4);
    assert_eq!(pages.lookup(&tokens(0..8)).pages, 0);
}

/// Random tables over few tokens; what each page holds is remembered, and every hit must be pages of that prefix, as many
/// as are there (as long as nothing was evicted).
#[test]
fn random_tables_find_all_of_their_prefix_and_nothing_else() {
    for seed in 0..200 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let page_size = rng.random_range(1..=4);
        let total = if seed % 2 == 0 { 5000 } else { rng.random_range(20..60) };
        let mut pages = pages(total, page_size);
        let mut contents: HashMap<PageId, Vec<TokenId>> = HashMap::new();
        let mut known: Vec<Vec<TokenId>> = Vec::new();
        let mut open: Vec<(PageTable, Vec<TokenId>)> = Vec::new();
        for _ in 0..300 {
            if open.len() == 4 || (!open.is_empty() && rng.random_bool(0.4)) {
                let (mut table, tokens) = open.swap_remove(rng.random_range(0..open.len()));
                let computed = &tokens[..rng.random_range(0..=tokens.len()).max(table.shared.len() * page_size)];
                match rng.random_range(0..3) {
                    0 => {
                        pages.share(&mut table, computed);
                        open.push((table, tokens.clone()));
                    }
                    1 if total < 5000 => pages.discard(table),
                    _ => {
                        pages.close(table, computed);
                        known.push(computed.to_vec());
                    }
                }
            } else {
                let length = rng.random_range(1..20);
                let tokens: Vec<TokenId> = (0..length).map(|_| rng.random_range(0..2)).collect();
                let hit = pages.lookup(&tokens);
                let mut table = pages.open(hit);
                for (index, page) in table.pages().enumerate() {
                    assert_eq!(contents[&page], tokens[..(index + 1) * page_size], "page {index} of the hit");
                }
                if total == 5000 {
                    let common = |other: &Vec<TokenId>| {
                        let searched = &tokens[..tokens.len() - 1];
                        other.iter().zip(searched).take_while(|(a, b)| a == b).count().min(other.len()) / page_size
                    };
                    let longest = known.iter().map(common).max().unwrap_or(0);
                    assert!(table.len() >= longest, "{longest} pages are there, {} were found", table.len());
                }
                pages.grow(&mut table, tokens.len(), &mut Vec::new());
                let room = tokens.len().min(pages.places(&table));
                let tokens = tokens[..room].to_vec();
                for (index, page) in table.pages().enumerate().skip(table.shared.len()) {
                    contents.insert(page, tokens[..((index + 1) * page_size).min(room)].to_vec());
                }
                open.push((table, tokens));
            }
            let tables: Vec<&PageTable> = open.iter().map(|(table, _)| table).collect();
            assert_eq!(pages.check_integrity(&tables), Ok(()), "seed {seed}");
        }
    }
}
