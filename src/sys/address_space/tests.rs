//! Tests of the window: when an address comes back, how the window grows, and what a sweep visits.
#![allow(clippy::unwrap_used)]

use super::*;

const SEGMENT: usize = 1 << 20;
const BASE: usize = 1 << 30;

fn reserved(count: usize) -> Window {
    let mut window = Window::new(BASE, SEGMENT, count);
    window.reserved(0, &vec![true; count]);
    window
}

fn at(window: &mut Window, len: usize) -> usize {
    match window.find(len, 4096) {
        Found::At { base, .. } => base,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ranges_are_disjoint_and_aligned() {
    let mut window = reserved(2);
    let (a, b) = (at(&mut window, 4096), window.find(8192, 1 << 16));
    assert_eq!((a, b), (BASE, Found::At { start: BASE + 4096, base: BASE + (1 << 16) }));
    assert_eq!(at(&mut window, 4096), BASE + (1 << 16) + 8192, "neighbours lie side by side");
    assert_eq!(window.find(SEGMENT / 4 + 4096, 4096), Found::Nothing);
    assert_eq!(window.find(4096, SEGMENT), Found::Nothing);
}

/// Frees every range at once, and each other one later, and one that lives on.
#[test]
fn an_address_comes_back_when_all_others_were_used() {
    for lag in [0, 1, 7, 200] {
        let mut window = reserved(8);
        let kept = at(&mut window, 4096);
        let mut freed = BTreeMap::new();
        let mut live = std::collections::VecDeque::new();
        let mut least = usize::MAX;
        for step in 0..20_000_usize {
            let here = at(&mut window, 4096);
            assert_ne!(here, kept);
            if let Some(since) = freed.insert(here, usize::MAX) {
                assert_ne!(since, usize::MAX, "in use already");
                least = least.min(step - since);
            }
            live.push_back(here);
            while live.len() > lag {
                let old = if step % 3 == 0 { live.pop_back() } else { live.pop_front() }.unwrap();
                window.release(old);
                freed.insert(old, step);
            }
        }
        // 2,048 pages, less one segment that is open and those in use.
        assert!(least > 2048 - 256 - 300, "lag {lag}: came back after {least}");
        assert!(window.owned.len() < 2 * lag + 10, "lag {lag}: {} entries", window.owned.len());
    }
}

#[test]
fn a_range_freed_ahead_of_the_cursor_is_not_the_next_to_be_used() {
    let mut window = reserved(2);
    let ranges: Vec<_> = (0..512).map(|_| at(&mut window, 4096)).collect();
    ranges[..200].iter().for_each(|range| window.release(*range));
    let again = at(&mut window, 4096);
    assert_eq!(again, ranges[0]);
    window.release(ranges[201]);
    ranges[202..300].iter().for_each(|range| window.release(*range));
    for _ in 0..400 {
        let Found::At { base: next, .. } = window.find(4096, 4096) else { break };
        assert!(!ranges[201..256].contains(&next), "this was freed a moment ago");
        if next == ranges[256] {
            break;
        }
    }
}

#[test]
fn withheld_ranges_merge_and_never_come_back() {
    let mut window = reserved(2);
    let ranges: Vec<_> = (0..256).map(|_| at(&mut window, 4096)).collect();
    let order = (0..256).step_by(2).chain((1..256).step_by(2));
    order.for_each(|i| window.withhold(ranges[i]));
    assert_eq!((window.owned.len(), window.withheld), (1, SEGMENT));
    for _ in 0..1000 {
        let next = at(&mut window, 4096);
        assert!(next >= BASE + SEGMENT);
        window.release(next);
    }
}

#[test]
fn a_crowded_window_answers_in_bounded_steps_and_recovers() {
    let mut window = reserved(4);
    let mut ranges = Vec::new();
    while let Found::At { base: next, .. } = window.find(4096, 4096) {
        ranges.push(next);
    }
    assert_eq!(ranges.len(), 4 * 256);
    // Holes of one page: nothing of two pages fits, and a page does.
    ranges.iter().step_by(2).for_each(|range| window.release(*range));
    assert_eq!(window.find(8192, 4096), Found::Nothing);
    let found = (0..2000).filter(|_| matches!(window.find(4096, 4096), Found::At { .. })).count();
    assert_eq!(found, 512);
}

#[test]
fn the_window_grows_in_steps_and_passes_over_what_others_have_mapped() {
    let mut window = Window::new(BASE, SEGMENT, 64);
    assert_eq!(window.find(4096, 4096), Found::NeedsSegment);
    assert_eq!(window.next_step(), Some((0, 4, BASE, SEGMENT)));
    window.reserved(0, &[false, true, true, true]);
    for _ in 0..3 * 4 {
        assert!(at(&mut window, SEGMENT / 4) >= BASE + SEGMENT);
    }
    assert_eq!(window.find(4096, 4096), Found::NeedsSegment);
    assert_eq!(window.next_step(), Some((4, 4, BASE + 4 * SEGMENT, SEGMENT)));
    window.reserved(4, &[false; 4]);
    assert_eq!(window.next_step(), Some((8, 8, BASE + 8 * SEGMENT, SEGMENT)));
}

#[test]
fn a_sweep_visits_each_free_range_that_was_used_and_no_other() {
    let mut window = reserved(2);
    let ranges: Vec<_> = (0..16).map(|_| at(&mut window, 4096)).collect();
    ranges.iter().step_by(2).for_each(|range| window.release(*range));
    let mut visited = Vec::new();
    while let Sweep::Range(swept) = window.sweep(1 << 16) {
        let (base, len) = swept.range();
        std::mem::forget(swept); // it is a range of this test's window
        assert_eq!(len, 4096);
        visited.push(base);
        window.swept(base);
    }
    assert_eq!(visited, ranges.iter().copied().step_by(2).collect::<Vec<_>>());
    assert_eq!(window.owned.len(), 8);
}

#[test]
fn the_budget_is_a_large_share_of_the_address_space() {
    prepare();
    let AddressFigures { budget, .. } = figures();
    assert!(budget >= top_of_addresses() / 8, "{budget:#x}");
    assert_eq!(largest_power(0), 0);
    assert_eq!(largest_power(80 << 20), 64 << 20);
}
