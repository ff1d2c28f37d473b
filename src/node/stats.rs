//! Statistics: counters, gauges of the device and of the process.

use std::sync::Arc;

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::env::throw;
use super::pools::LostSlices;
use super::registry::manager;
use crate::accounting::Counters;
use crate::manager::{DomainStats, NpuStats as CoreNpuStats, SystemStats as CoreSystemStats};
use crate::sys::address_space;
use crate::sys::proc::Gauge;

#[napi(object)]
pub struct Count {
    pub used: f64,
    /// Bytes that count against limits: those in use, in flight, and reserved.
    pub taken: f64,
    pub peak: f64,
    pub live_allocations: f64,
    pub total_allocations: f64,
    pub total_frees: f64,
    pub failed_allocations: f64,
}

impl From<Counters> for Count {
    fn from(counters: Counters) -> Self {
        Self {
            used: counters.used as f64,
            taken: counters.committed() as f64,
            peak: counters.peak as f64,
            live_allocations: counters.live as f64,
            total_allocations: counters.allocations as f64,
            total_frees: counters.frees as f64,
            failed_allocations: counters.failures as f64,
        }
    }
}

#[napi(object, use_nullable = true)]
pub struct Tag {
    pub tag: String,
    pub limit: Option<f64>,
    pub counters: Count,
}

#[napi(object)]
pub struct Domain {
    pub id: u32,
    pub total: f64,
    pub used: f64,
    pub reserved_for_others: f64,
}

#[napi(object, use_nullable = true)]
pub struct NpuStats {
    pub counters: Count,
    pub total: f64,
    pub available: f64,
    pub limit: Option<f64>,
    pub objects: f64,
    pub pending_free: f64,
    pub lost_objects: f64,
    pub lost_for_good: f64,
    pub lost_bytes: f64,
    pub slab_reserved: f64,
    pub slab_allocated: f64,
    pub slab_waiting: f64,
    pub slab_late_writes: f64,
    pub slab_lost: LostSlices,
    pub domains: Vec<Domain>,
    pub process_mapped: Option<f64>,
    pub sram_free: f64,
    pub cma_total: Option<f64>,
    pub cma_free: Option<f64>,
    pub load: Option<Vec<f64>>,
}

impl From<CoreNpuStats> for NpuStats {
    fn from(stats: CoreNpuStats) -> Self {
        let domain = |(id, domain): (u32, DomainStats)| Domain {
            id,
            total: domain.total as f64,
            used: domain.used as f64,
            reserved_for_others: domain.for_others as f64,
        };
        Self {
            counters: stats.counters.into(),
            total: stats.total as f64,
            available: stats.available as f64,
            limit: stats.limit.map(|n| n as f64),
            objects: stats.objects as f64,
            pending_free: stats.pending_free as f64,
            lost_objects: stats.lost.0 as f64,
            lost_for_good: stats.lost_for_good as f64,
            lost_bytes: stats.lost.1 as f64,
            slab_reserved: stats.slabs.reserved as f64,
            slab_allocated: stats.slabs.allocated as f64,
            slab_waiting: stats.slabs.waiting as f64,
            slab_late_writes: stats.slabs.late_writes as f64,
            slab_lost: LostSlices { slices: stats.slabs.lost.0 as f64, bytes: stats.slabs.lost.1 as f64 },
            domains: (0..).zip(stats.domains).map(domain).collect(),
            process_mapped: stats.process_mapped.map(|n| n as f64),
            sram_free: stats.sram_free as f64,
            cma_total: stats.cma.map(|(total, _)| total as f64),
            cma_free: stats.cma.map(|(_, free)| free as f64),
            load: stats.load,
        }
    }
}

#[napi(object, use_nullable = true)]
pub struct Group {
    pub limit: Option<f64>,
    pub current: f64,
}

#[napi(object)]
pub struct Stall {
    pub some_avg10: f64,
    pub full_avg10: f64,
}

#[napi(object, use_nullable = true)]
pub struct SystemStats {
    pub counters: Count,
    pub limit: Option<f64>,
    pub lost_mappings: f64,
    pub lost_bytes: f64,
    pub total: f64,
    pub available: f64,
    pub swap_total: f64,
    pub swap_free: f64,
    pub rss: Option<f64>,
    pub cgroup: Option<Group>,
    pub pressure: Option<Stall>,
}

impl From<CoreSystemStats> for SystemStats {
    fn from(stats: CoreSystemStats) -> Self {
        Self {
            counters: stats.counters.into(),
            limit: stats.limit.map(|n| n as f64),
            lost_mappings: stats.lost.0 as f64,
            lost_bytes: stats.lost.1 as f64,
            total: stats.memory.total as f64,
            available: stats.available as f64,
            swap_total: stats.memory.swap_total as f64,
            swap_free: stats.memory.swap_free as f64,
            rss: stats.rss.map(|n| n as f64),
            cgroup: stats
                .cgroup
                .map(|group| Group { limit: group.limit.map(|n| n as f64), current: group.current as f64 }),
            pressure: stats.pressure.map(|stall| Stall { some_avg10: stall.some_avg10, full_avg10: stall.full_avg10 }),
        }
    }
}

#[napi(object)]
pub struct Summary {
    pub npu_used: f64,
    pub npu_total: f64,
    pub npu_peak: f64,
    pub system_used: f64,
    pub system_total: f64,
    pub system_peak: f64,
    pub pool_reserved: f64,
    pub pool_allocated: f64,
    pub waiting: f64,
    pub live_allocations: f64,
    pub pinned_blocks: f64,
    pub pinned_bytes: f64,
    pub dropped_pinned_blocks: f64,
    pub dropped_pinned_bytes: f64,
}

/// Returns the statistics of NPU memory.
#[napi(catch_unwind)]
pub fn npu_stats(env: &Env, handle: f64) -> Result<NpuStats> {
    manager(handle).map(|manager| manager.npu_stats().into()).map_err(throw(env))
}

/// Returns the statistics of system memory.
#[napi(catch_unwind)]
pub fn system_stats(env: &Env, handle: f64) -> Result<SystemStats> {
    manager(handle).map(|manager| manager.system_stats().into()).map_err(throw(env))
}

/// Returns the totals of all kinds of memory.
#[napi(catch_unwind)]
pub fn summary(env: &Env, handle: f64) -> Result<Summary> {
    let summary = manager(handle).map_err(throw(env))?.summary();
    Ok(Summary {
        npu_used: summary.npu.used as f64,
        npu_total: summary.npu_total as f64,
        npu_peak: summary.npu.peak as f64,
        system_used: summary.system.used as f64,
        system_total: summary.system_total as f64,
        system_peak: summary.system.peak as f64,
        pool_reserved: summary.pool_reserved as f64,
        pool_allocated: summary.pool_allocated as f64,
        waiting: summary.waiting as f64,
        live_allocations: (summary.npu.live + summary.system.live) as f64,
        pinned_blocks: summary.pinned.blocks as f64,
        pinned_bytes: summary.pinned.bytes as f64,
        dropped_pinned_blocks: summary.pinned.dropped_blocks as f64,
        dropped_pinned_bytes: summary.pinned.dropped_bytes as f64,
    })
}

/// Returns the limit of both kinds of memory together; null without one.
#[napi(catch_unwind)]
pub fn total_limit(env: &Env, handle: f64) -> Result<Option<f64>> {
    Ok(manager(handle).map_err(throw(env))?.total_limit().map(|max| max as f64))
}

/// Returns the counters by tag.
#[napi(catch_unwind)]
pub fn tags(env: &Env, handle: f64) -> Result<Vec<Tag>> {
    let tags = manager(handle).map_err(throw(env))?.tags();
    // A tag that only has a limit has no counters yet.
    let counted = tags.into_iter().filter(|(_, counters, _)| *counters != Counters::default());
    let tag = |(tag, counters, max): (Arc<str>, Counters, Option<u64>)| Tag {
        tag: tag.to_string(),
        limit: max.map(|max| max as f64),
        counters: counters.into(),
    };
    Ok(counted.map(tag).collect())
}

/// Returns the process's open file descriptors and their limit, and its mappings and their limit, NaN where unknown;
/// and the bytes of addresses that are reused last, and of those that are never used again.
///
/// An array: V8 discards the shape of an object that native code creates only now and then, and with it code that it
/// has optimized for that shape, which includes the code of allocations.
#[napi(
    catch_unwind,
    ts_return_type = "[openFds: number, maxFds: number, maps: number, maxMaps: number, \
        addressBudget: number, withheldAddresses: number]"
)]
pub fn process_gauges(env: &Env, handle: f64) -> Result<Vec<f64>> {
    let (fds, maps) = manager(handle).map_err(throw(env))?.process_gauges();
    let numbers = |gauge: Option<Gauge>| gauge.map_or([f64::NAN; 2], |Gauge { used, max }| [used as f64, max as f64]);
    let addresses = address_space::figures();
    Ok([numbers(fds), numbers(maps), [addresses.budget as f64, addresses.withheld as f64]].concat())
}
