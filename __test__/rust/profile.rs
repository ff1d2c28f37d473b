//! Profiling without a manager: recorders, their merged figures, and samples that wait for their stack.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rkllmjs_memory::profile::{
    clock, Action, CallSites, Event, Histogram, Options, Profiler, Recorder, Recording, Totals,
};
use rkllmjs_memory::units::MemoryKind;

const NPU: MemoryKind = MemoryKind::Npu;
const SYSTEM: MemoryKind = MemoryKind::System;

/// A profiler that samples every allocation.
fn profiler() -> Arc<Profiler> {
    Profiler::new(Options { sample_interval: 1, event_capacity: 100 })
}

fn recorder(profiler: &Arc<Profiler>) -> Recorder {
    Recorder::new(profiler, NPU, None, None)
}

/// Records an allocation with a sample under `key`.
fn sample(recorder: &mut Recorder, key: u64) {
    assert!(recorder.allocated(key, 100, None));
    recorder.sampled((0, key), 100, None);
}

fn event(time: u64, id: u64) -> Event {
    Event { action: Action::Allocate, time, id, size: 1, kind: NPU, tag: None, pool: None }
}

/// Waits until the clock advances.
fn let_time_pass() {
    let before = clock::exact();
    while clock::exact() == before {
        std::hint::spin_loop();
    }
}

#[test]
fn merged_recordings_lie_in_the_order_of_time_and_the_latest_events_stay() {
    let sizes = |values: &[u64]| {
        let mut sizes = Histogram::default();
        values.iter().for_each(|value| sizes.count(*value, 1));
        sizes
    };
    let first = Recording {
        events: vec![event(1, 1), event(3, 2), event(5, 3)],
        kept: 3,
        dropped: 10,
        sizes: sizes(&[10, 20, 30]),
        totals: Totals { allocations: 13, frees: 4, bytes_allocated: 1000, bytes_freed: 300 },
    };
    let second = Recording {
        events: vec![event(2, 4), event(3, 5)],
        kept: 2,
        dropped: 1,
        sizes: sizes(&[5, 40]),
        totals: Totals { allocations: 3, frees: 2, bytes_allocated: 70, bytes_freed: 50 },
    };
    let merged = |capacity| {
        let mut all = first.clone();
        all.merge(second.clone(), capacity);
        all
    };
    let ids = |recording: &Recording| recording.events.iter().map(|event| event.id).collect::<Vec<_>>();
    let (roomy, tight) = (merged(100), merged(4));
    assert_eq!((ids(&roomy), roomy.kept, roomy.dropped), (vec![1, 4, 2, 5, 3], 5, 11));
    assert_eq!((ids(&tight), tight.kept, tight.dropped), (vec![4, 2, 5, 3], 4, 12));
    let totals = Totals { allocations: 16, frees: 6, bytes_allocated: 1070, bytes_freed: 350 };
    assert_eq!(roomy.totals, totals);
    let figures = roomy.sizes.summary();
    assert_eq!((figures.count, figures.min, figures.max, figures.mean), (5, 5, 40, 21.0));
}

#[test]
fn a_recorder_adds_up_what_it_is_told() {
    let profiler = Profiler::new(Options { sample_interval: 1 << 30, event_capacity: 2 });
    let mut recorder = recorder(&profiler);
    for size in [100, 200, 300] {
        recorder.allocated(size, size, None);
    }
    recorder.ended(Action::Free, 100, 100, None);
    recorder.ended(Action::Collect, 200, 200, None);
    recorder.note(Action::Fail, 0, 9, None);
    let recording = recorder.copy(true).read();
    let totals = Totals { allocations: 3, frees: 2, bytes_allocated: 600, bytes_freed: 300 };
    assert_eq!((recording.totals, recording.kept, recording.dropped), (totals, 2, 4));
    let events: Vec<_> = recording.events.iter().map(|event| (event.action, event.id, event.size)).collect();
    assert_eq!(events, [(Action::Collect, 200, 200), (Action::Fail, 0, 9)]);
    let bare = recorder.copy(false).read();
    assert_eq!((bare.events, bare.kept, bare.totals), (Vec::new(), 2, totals));
}

#[test]
fn an_event_carries_its_own_label_or_that_of_its_source() {
    let profiler = profiler();
    let [own, other, pool, elsewhere] = ["own", "other", "pool", "elsewhere"].map(Arc::<str>::from);
    let mut recorder = Recorder::new(&profiler, SYSTEM, Some(&own), Some(&pool));
    assert!(Arc::ptr_eq(recorder.profiler(), &profiler));
    let labels = [
        None,
        Some(recorder.label_of(None)),
        Some(recorder.label_of(Some(&other))),
        Some(recorder.label(NPU, None, Some(&elsewhere))),
    ];
    labels.into_iter().for_each(|label| recorder.note(Action::Move, 1, 1, label));
    let events = recorder.copy(true).read().events;
    let said: Vec<_> = events.iter().map(|event| (event.kind, event.tag.as_deref(), event.pool.as_deref())).collect();
    let by_default = (SYSTEM, Some("own"), Some("pool"));
    assert_eq!(said, [by_default, by_default, (SYSTEM, Some("other"), Some("pool")), (NPU, None, Some("elsewhere"))]);
}

#[test]
fn a_sample_is_found_by_its_name_until_it_ends() {
    let profiler = profiler();
    let mut recorder = recorder(&profiler);
    sample(&mut recorder, 1);
    sample(&mut recorder, 2);
    let (first, second) = (recorder.sample((0, 1)).unwrap(), recorder.sample((0, 2)).unwrap());
    assert!(recorder.renamed((0, 1), (5, 6)));
    assert!(!recorder.renamed((0, 1), (7, 8)), "nothing has that name any more");
    assert_eq!((recorder.sample((0, 1)), recorder.sample((5, 6))), (None, Some(first)));
    let all: HashSet<_> = recorder.samples().collect();
    assert_eq!(all, HashSet::from([((5, 6), first), ((0, 2), second)]));
    recorder.sample_ended((5, 6));
    assert_eq!(recorder.sample((5, 6)), None);
    assert_eq!(profiler.profile(Vec::new(), false).lifetimes.len(), 1);
    let sites = profiler.sites();
    assert_eq!(sites.sample(first), None);
    let (at, size, stack) = sites.sample(second).unwrap();
    assert!(at <= clock::exact() && size == 100 && stack.is_none());
}

#[test]
fn a_sample_is_told_of_under_its_tag_or_under_that_of_its_source() {
    let profiler = profiler();
    let [own, other] = ["own", "other"].map(Arc::<str>::from);
    let mut recorder = Recorder::new(&profiler, NPU, Some(&own), None);
    for tag in [None, Some(other)] {
        assert!(recorder.allocated(1, 64, None));
        recorder.sampled((0, 1), 64, tag);
    }
    for sample in profiler.take_pending() {
        profiler.sites().attribute(sample, "at f");
        assert_eq!(profiler.sites().sample(sample).unwrap().2.as_deref(), Some("at f"));
    }
    let sites = profiler.profile(Vec::new(), false).sites;
    let said: Vec<_> = sites.iter().map(|site| (&*site.stack, site.tag.as_deref(), site.live_bytes)).collect();
    assert_eq!(said, [("at f", Some("own"), 64.0), ("at f", Some("other"), 64.0)]);
}

#[test]
fn samples_wait_for_their_stack_on_the_thread_that_took_them_and_for_their_profiler() {
    let (one, two) = (profiler(), profiler());
    let mut recorders = (recorder(&one), recorder(&two));
    sample(&mut recorders.0, 1);
    sample(&mut recorders.1, 1);
    sample(&mut recorders.0, 2);
    assert_eq!((one.pending(), two.pending()), (2, 1));
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!((one.pending(), one.take_pending()), (0, Vec::new())));
    });
    let expected = [1, 2].map(|id| recorders.0.sample((0, id)).unwrap());
    assert_eq!(one.take_pending(), expected);
    assert_eq!((one.pending(), two.pending()), (0, 1));
    assert_eq!(two.take_pending(), [recorders.1.sample((0, 1)).unwrap()]);
}

#[test]
fn where_no_stack_is_asked_for_the_last_64_samples_wait() {
    let profiler = profiler();
    let mut recorder = recorder(&profiler);
    (0..70).for_each(|id| sample(&mut recorder, id));
    let expected: Vec<_> = (6..70).map(|id| recorder.sample((0, id)).unwrap()).collect();
    assert_eq!(profiler.pending(), 64);
    assert_eq!(profiler.take_pending(), expected);
}

#[test]
fn a_profile_has_what_sources_that_are_gone_recorded_and_what_the_others_have() {
    let profiler = Profiler::new(Options { sample_interval: 1 << 30, event_capacity: 3 });
    let began = clock::exact();
    let (mut gone, mut here) = (recorder(&profiler), recorder(&profiler));
    gone.allocated(1, 10, None);
    gone.allocated(2, 10, None);
    profiler.absorb(gone.copy(true));
    let_time_pass();
    here.allocated(3, 10, None);
    here.allocated(4, 10, None);
    let profile = |with_events| profiler.profile(vec![here.copy(with_events).read()], with_events);
    let all = profile(true);
    let ids: Vec<_> = all.recording.events.iter().map(|event| event.id).collect();
    assert_eq!((ids, all.recording.kept, all.recording.dropped), (vec![2, 3, 4], 3, 1));
    assert_eq!(all.recording.totals.allocations, 4);
    // Times are relative to the start of the profile.
    assert!(all.recording.events.iter().all(|event| event.time <= all.lasted));
    assert!(all.lasted <= clock::exact() - began + 1_000_000, "{} µs", all.lasted);
    let bare = profile(false);
    assert_eq!((bare.recording.events, bare.recording.totals), (Vec::new(), all.recording.totals));
}

#[test]
fn a_profile_lasts_until_it_is_ended() {
    let profiler = profiler();
    let lasted = || profiler.profile(Vec::new(), false).lasted;
    let before = lasted();
    let_time_pass();
    assert!(lasted() > before);
    profiler.end();
    let ended = lasted();
    let_time_pass();
    profiler.end();
    assert_eq!(lasted(), ended, "the second end changes nothing");
}

#[test]
fn a_time_of_the_clock_has_its_date() {
    let profiler = profiler();
    let began = profiler.profile(Vec::new(), false).began;
    assert_eq!(profiler.calendar(0), began, "before the beginning there is nothing");
    let at = clock::exact();
    let since = profiler.calendar(at + 1_000_000).duration_since(profiler.calendar(at)).unwrap();
    assert_eq!(since, Duration::from_secs(1));
    assert_eq!(profiler.options(), Options { sample_interval: 1, event_capacity: 100 });
}

#[test]
fn latencies_are_at_least_a_nanosecond_and_count_for_those_that_were_not_measured() {
    let profiler = profiler();
    profiler.record_latency(0, 3);
    profiler.record_latency(501, 2);
    let latencies = profiler.profile(Vec::new(), false).latencies;
    let figures = latencies.summary();
    assert_eq!((figures.count, figures.min, figures.max, figures.mean), (5, 1, 501, 201.0));
}

#[test]
fn no_two_recorders_sample_the_same_allocations() {
    let options = Options { sample_interval: 1 << 16, event_capacity: 0 };
    let profiler = Profiler::new(options);
    let hits = || {
        let mut recorder = recorder(&profiler);
        let hit = |at| {
            let hit = recorder.allocated(at, 4096, None);
            if hit {
                recorder.sampled((0, at), 4096, None);
            }
            hit
        };
        (0..1000).map(hit).collect::<Vec<_>>()
    };
    assert_ne!(hits(), hits());
}

#[test]
fn a_power_of_two_ends_its_bucket() {
    let mut histogram = Histogram::default();
    assert!(histogram.is_empty());
    for value in [1, 2, 3, 4, 1024, 1025] {
        histogram.count(value, 10);
    }
    histogram.count(7, 0);
    assert_eq!((histogram.len(), histogram.is_empty(), histogram.sum()), (60, false, 20_590.0));
    let figures = histogram.summary();
    assert_eq!(figures.buckets, [(1, 10), (2, 10), (4, 20), (1024, 10), (2048, 10)]);
    assert_eq!((figures.p50, figures.min, figures.max), (3, 1, 1025));
}

#[test]
fn actions_have_the_names_that_javascript_uses() {
    use Action::{Allocate, Collect, Fail, Free, Grow, Move, Trim};
    let names = [Allocate, Free, Fail, Grow, Trim, Move, Collect].map(Action::as_str);
    assert_eq!(names, ["allocate", "free", "fail", "grow", "trim", "move", "collect"]);
    assert_eq!([NPU, SYSTEM].map(MemoryKind::as_str), ["npu", "system"]);
}

#[test]
fn a_call_site_has_the_sum_of_its_samples_and_exactly_nothing_when_all_have_ended() {
    let profiler = profiler();
    let mut sites = profiler.sites();
    let samples = [(100, 0.1), (10, 0.2), (1000, 3.0)].map(|(size, stands_for)| {
        let sample = sites.sampled(size, stands_for, None);
        sites.attribute(sample, "at f");
        sample
    });
    // Live bytes, live count, total bytes and total count, to a billionth.
    let expect = |sites: &CallSites, expected: [f64; 4]| {
        let site = &sites.list()[0];
        let found = [site.live_bytes, site.live_count, site.total_bytes, site.total_count];
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-9), "{found:?}");
    };
    expect(&sites, [3012.0, 3.3, 3012.0, 3.3]);
    sites.freed(samples[2]);
    expect(&sites, [12.0, 0.3, 3012.0, 3.3]);
    sites.freed(samples[0]);
    sites.freed(samples[1]);
    // 0.1 + 0.2 - 0.1 - 0.2 is not 0.
    assert_eq!((sites.list()[0].live_bytes, sites.list()[0].live_count), (0.0, 0.0));
    // A sample counts as at least one allocation, even with a smaller weight.
    assert_eq!(sites.lifetimes().len(), 5);
}
