//! A manager's statistics, from its accounting, its pools, the driver and the kernel.

use std::sync::Arc;

use super::Manager;
use crate::accounting::Counters;
use crate::backend::simulated::MEMFD_NAME;
use crate::backend::{DeviceInfo, Kind};
use crate::device::unretired;
use crate::pool::{PinStats, PoolCounts, PoolStats};
use crate::sys::cgroup::Cgroup;
use crate::sys::proc::{Gauge, MemInfo, Pressure};
use crate::sys::ram::{self, Ram};
use crate::units::MemoryKind;

/// Statistics of NPU memory, in bytes.
#[derive(Clone, Debug)]
pub struct NpuStats {
    /// Counters of allocations, pools' slices included.
    pub counters: Counters,
    /// The smaller of the NPU's address space and the machine's memory.
    pub total: u64,
    /// The bytes that can still be allocated: available RAM where the kernel shows no area that bounds them.
    pub available: u64,
    /// Kernel objects behind the allocations, those of pools and slabs included.
    pub objects: u64,
    /// All slabs together.
    pub slabs: SlabStats,
    /// Freed bytes that the driver has not taken back yet.
    pub pending_free: u64,
    /// Objects that the driver failed to take back, or that the kernel could not unmap yet, and their bytes.
    pub lost: (u64, u64),
    /// Those of them that the driver failed to take back: they stay until a reboot.
    pub lost_for_good: u64,
    /// The user's limit of NPU memory.
    pub limit: Option<u64>,
    /// The IOMMU domains, by number.
    pub domains: Vec<DomainStats>,
    /// Bytes of NPU buffers mapped in this process, those of other libraries included.
    pub process_mapped: Option<u64>,
    /// Free SRAM.
    pub sram_free: u64,
    /// Contiguous memory: all bytes, and the free ones.
    pub cma: Option<(u64, u64)>,
    /// The load of each core, in per cent.
    pub load: Option<Vec<f64>>,
}

/// Statistics of an IOMMU domain, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct DomainStats {
    /// The size of the domain.
    pub total: u64,
    /// Bytes allocated by this process.
    pub used: u64,
    /// Bytes reserved for other libraries.
    pub for_others: u64,
}

impl DomainStats {
    /// Returns the bytes neither allocated nor reserved.
    pub fn free(&self) -> u64 {
        self.total.saturating_sub(self.used + self.for_others)
    }
}

/// Statistics of all slabs together, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlabStats {
    /// Bytes of slabs.
    pub reserved: u64,
    /// Bytes of live slices.
    pub allocated: u64,
    /// Bytes of freed slices that wait before their bytes are used again.
    pub waiting: u64,
    /// The number of slices written after their free. Detected only if frees are delayed.
    pub late_writes: u64,
    /// The number and the bytes of slices that are never used again.
    pub lost: (u64, u64),
}

/// Statistics of system memory, in bytes.
#[derive(Clone, Debug)]
pub struct SystemStats {
    /// Counters of allocations, pools' slices included.
    pub counters: Counters,
    /// The bytes that can still be allocated, under the limits of the memory cgroup and of the user.
    pub available: u64,
    /// The user's limit of system memory.
    pub limit: Option<u64>,
    /// Freed memory that the kernel could not retire yet: the number of mappings, and their bytes.
    pub lost: (u64, u64),
    /// The machine's memory.
    pub memory: MemInfo,
    /// The resident set of this process.
    pub rss: Option<u64>,
    /// The figures of this process's cgroup.
    pub cgroup: Option<Cgroup>,
    /// The time that tasks wait for memory.
    pub pressure: Option<Pressure>,
}

/// A cheap summary, in bytes. Its cost does not depend on the number of live buffers.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Counters of NPU memory.
    pub npu: Counters,
    /// The smaller of the NPU's address space and the machine's memory.
    pub npu_total: u64,
    /// Counters of system memory.
    pub system: Counters,
    /// The machine's RAM, or the cgroup's limit if that is less.
    pub system_total: u64,
    /// Bytes of the chunks of named pools.
    pub pool_reserved: u64,
    /// Bytes of live slices in those chunks.
    pub pool_allocated: u64,
    /// Bytes of freed slices, of pools and slabs, that wait before their bytes are used again.
    pub waiting: u64,
    /// The pinned slices of those pools.
    pub pinned: PinStats,
}

impl Manager {
    /// Returns the summary.
    pub fn summary(&self) -> Summary {
        let pools = self.pool_counts();
        let (npu, system) = self.accounting.read(|accounts| (accounts.npu, accounts.system));
        Summary {
            npu: with_pools(npu, MemoryKind::Npu, &pools),
            npu_total: self.npu_total,
            system: with_pools(system, MemoryKind::System, &pools),
            system_total: self.ram_total,
            pool_reserved: pools.iter().map(|(_, stats)| stats.reserved).sum(),
            pool_allocated: pools.iter().map(|(_, stats)| stats.allocated).sum(),
            waiting: pools.iter().map(|(_, stats)| stats.waiting).sum::<u64>() + self.slabs.waiting(),
            pinned: self.pin_stats(),
        }
    }

    fn pool_counts(&self) -> Vec<(MemoryKind, PoolCounts)> {
        self.pools().into_iter().map(|pool| (pool.kind(), pool.counts())).collect()
    }

    /// Returns the name, kind and statistics of every named pool.
    pub fn pool_stats(&self) -> Vec<(Arc<str>, MemoryKind, PoolStats)> {
        let named = self.pools().into_iter().filter_map(|pool| Some((Arc::clone(pool.public_name()?), pool)));
        named.map(|(name, pool)| (name, pool.kind(), pool.stats())).collect()
    }

    fn domains(&self) -> Vec<DomainStats> {
        let all = self.device.domains().iter().zip(self.device.for_others());
        all.map(|(domain, for_others)| DomainStats {
            total: domain.limit(),
            used: domain.used().saturating_sub(for_others),
            for_others,
        })
        .collect()
    }

    /// Returns the statistics of NPU memory. Reads this process's mappings.
    pub fn npu_stats(&self) -> NpuStats {
        let info = self.info();
        let domains: Vec<_> = self.domains();
        let memory = self.proc.memory();
        let ram = memory.as_ref().map_or(0, |memory| Ram::of(memory).available);
        let gauges = self.device.backend().gauges(0);
        let cma = match info.kind {
            // The simulated device has an area of its own, apart from the machine's.
            Kind::Simulated if !info.iommu => Some(info.domain_bytes).zip(gauges.free),
            Kind::Simulated | Kind::Rocket => None,
            _ => memory.and_then(|memory| memory.cma_total.zip(memory.cma_free)),
        };
        let pools = self.pool_counts();
        let slabs = self.slabs.counts();
        let (limit, room) = self.accounting.limit_and_room(MemoryKind::Npu);
        let own = self.accounting.read(|accounts| accounts.npu);
        let counters = with_pools(own, MemoryKind::Npu, &pools);
        let reach = match (info.iommu, cma) {
            (true, _) => domains.iter().map(DomainStats::free).sum(),
            // Ordinary pages serve once the CMA area is full, and where the kernel shows none.
            (false, _) if info.falls_back_to_pages() || info.kind == Kind::DmaHeap => ram,
            (false, Some((_, free))) => free,
            (false, None) if info.kind == Kind::RknpuHeap || info.domain_bytes == 0 => ram,
            _ => info.domain_bytes.saturating_sub(counters.used),
        };
        let slices: u64 = slabs.iter().map(|(counts, _)| counts.live).sum();
        let chunks = pools.iter().filter(|(kind, _)| *kind == MemoryKind::Npu).map(|(_, counts)| counts);
        NpuStats {
            counters,
            total: self.npu_total,
            available: reach.min(ram).min(room),
            limit,
            objects: own.live - slices.min(own.live)
                + chunks.map(|counts| counts.chunks).chain(slabs.iter().map(|(counts, _)| counts.chunks)).sum::<u64>(),
            slabs: SlabStats {
                reserved: slabs.iter().map(|(counts, _)| counts.reserved).sum(),
                allocated: slabs.iter().map(|(counts, _)| counts.allocated).sum(),
                waiting: slabs.iter().map(|(counts, _)| counts.waiting).sum(),
                late_writes: slabs.iter().map(|(counts, _)| counts.late_writes).sum(),
                lost: slabs.iter().fold((0, 0), |sum, (_, lost)| (sum.0 + lost.0, sum.1 + lost.1)),
            },
            pending_free: self.device.pending(),
            lost: self.device.lost(),
            lost_for_good: self.device.lost_for_good(),
            domains,
            process_mapped: self.process_mapped(),
            sram_free: gauges.sram_free,
            cma,
            load: match info.kind {
                Kind::Simulated | Kind::DmaHeap => None,
                _ => self.proc.npu_load(),
            },
        }
    }

    /// Returns the statistics of system memory.
    pub fn system_stats(&self) -> SystemStats {
        let pools = self.pool_counts();
        let memory = self.proc.memory();
        let (limit, room) = self.accounting.limit_and_room(MemoryKind::System);
        SystemStats {
            counters: with_pools(self.accounting.read(|accounts| accounts.system), MemoryKind::System, &pools),
            limit,
            available: memory.as_ref().map_or(0, |memory| Ram::of(memory).available).min(room),
            lost: unretired::lost(None),
            memory: memory.unwrap_or_default(),
            rss: self.proc.rss(),
            cgroup: ram::cgroup(),
            pressure: self.proc.pressure(),
        }
    }

    /// Returns the counters and the limit of every tag, by name.
    pub fn tags(&self) -> Vec<(Arc<str>, Counters, Option<u64>)> {
        // Copied under the lock and read after it.
        let tags = self.accounting.read(|accounts| accounts.tags.clone());
        tags.into_iter().map(|(tag, account)| (tag, account.counters(), account.max())).collect()
    }

    /// Returns the limit of both kinds of memory together.
    pub fn total_limit(&self) -> Option<u64> {
        self.accounting.total_limit()
    }

    /// Returns the numbers of open file descriptors and of mappings of this process, with their limits.
    pub fn process_gauges(&self) -> (Option<Gauge>, Option<Gauge>) {
        (self.proc.fds(), self.proc.maps())
    }

    /// Returns the bytes of NPU buffers mapped in this process, recognized by the names of their mappings.
    fn process_mapped(&self) -> Option<u64> {
        let info = self.info();
        match (info.kind, &info.path) {
            (Kind::Simulated, _) => {
                let name = format!("/memfd:{MEMFD_NAME}");
                self.proc.mapped(|mapped| mapped.starts_with(&name))
            }
            (Kind::Rknpu, Some(node)) => {
                let nodes = self.proc.drm_siblings(node);
                self.proc.mapped(|mapped| nodes.iter().any(|node| node.as_os_str() == mapped))
            }
            _ => self.proc.mapped(|mapped| mapped.starts_with("/dmabuf:")),
        }
    }
}

/// Adds the pools' counts of slices. The accounting has only the bytes of their chunks.
fn with_pools(mut counters: Counters, kind: MemoryKind, pools: &[(MemoryKind, PoolCounts)]) -> Counters {
    for (_, stats) in pools.iter().filter(|(of, _)| *of == kind) {
        counters.live += stats.live;
        counters.allocations += stats.allocations;
        counters.frees += stats.allocations - stats.live;
        counters.failures += stats.failures;
    }
    counters
}

/// Returns the bytes that the device can address, or `None` if only RAM limits them.
pub(super) fn reach(info: &DeviceInfo) -> Option<u64> {
    match (info.iommu, info.domain_bytes) {
        (_, 0) => None,
        (true, domain) => domain.checked_mul(info.domains.max(1).into()),
        (false, _) if info.falls_back_to_pages() => None,
        (false, cma) => Some(cma),
    }
}
