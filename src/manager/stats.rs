//! A manager's figures: what its accounting, its pools, the driver and the kernel say.

use std::sync::Arc;

use super::Manager;
use crate::accounting::Counters;
use crate::backend::simulated::MEMFD_NAME;
use crate::backend::{DeviceInfo, Kind};
use crate::pool::PoolStats;
use crate::sys::proc::{Cgroup, Gauge, MemInfo, Pressure};
use crate::sys::ram::Ram;
use crate::units::MemoryKind;

/// NPU memory in figures; bytes.
#[derive(Clone, Debug)]
pub struct NpuStats {
    /// What was asked for and given.
    pub counters: Counters,
    /// What the NPU can address and the machine could give, whichever binds.
    pub total: u64,
    /// What of it is free.
    pub available: u64,
    /// Kernel objects behind the allocations, those of pools and slabs included.
    pub objects: u64,
    /// All slabs together: bytes in them, bytes in slices that live, writes after a free.
    pub slabs: SlabStats,
    /// Freed here, not yet given back by the driver.
    pub pending_free: u64,
    /// Objects that the driver failed to take back, and their bytes.
    pub lost: (u64, u64),
    /// The most there may be.
    pub limit: Option<u64>,
    /// Each IOMMU domain.
    pub domains: Vec<DomainStats>,
    /// NPU buffers mapped in this process by anyone.
    pub process_mapped: Option<u64>,
    /// SRAM nobody uses.
    pub sram_free: u64,
    /// Contiguous memory, all and free.
    pub cma: Option<(u64, u64)>,
    /// Per cent per core.
    pub load: Option<Vec<f64>>,
}

/// An IOMMU domain; bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct DomainStats {
    /// What it addresses.
    pub total: u64,
    /// What of it this process holds.
    pub used: u64,
    /// What of it is set aside for others.
    pub for_others: u64,
}

impl DomainStats {
    /// What nobody holds.
    pub fn free(&self) -> u64 {
        self.total.saturating_sub(self.used + self.for_others)
    }
}

/// All slabs together; bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlabStats {
    /// In slabs.
    pub reserved: u64,
    /// In slices that live.
    pub allocated: u64,
    /// Slices that were written to after they were freed; only with a delay can anybody tell.
    pub late_writes: u64,
}

/// System memory in figures; bytes.
#[derive(Clone, Debug)]
pub struct SystemStats {
    /// What was asked for and given.
    pub counters: Counters,
    /// The most there may be.
    pub limit: Option<u64>,
    /// The machine's memory.
    pub memory: MemInfo,
    /// Resident set of this process.
    pub rss: u64,
    /// The container's figures.
    pub cgroup: Option<Cgroup>,
    /// How much tasks wait for memory.
    pub pressure: Option<Pressure>,
}

/// The one-look summary; bytes. Costs the same however many buffers are live.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// NPU memory.
    pub npu: Counters,
    /// What the NPU can address and the machine could give.
    pub npu_total: u64,
    /// System memory.
    pub system: Counters,
    /// RAM of the machine, or the cgroup's limit where that is less.
    pub system_total: u64,
    /// Bytes in the chunks of named pools.
    pub pool_reserved: u64,
    /// Bytes of them in slices that live.
    pub pool_allocated: u64,
}

impl Manager {
    /// The one-look summary.
    pub fn summary(&self) -> Summary {
        let pools: Vec<_> = self.pools().into_iter().map(|pool| (pool.kind(), pool.stats())).collect();
        let (npu, system) = self.accounting.read(|accounts| (accounts.npu, accounts.system));
        Summary {
            npu: with_pools(npu, MemoryKind::Npu, &pools),
            npu_total: self.npu_total,
            system: with_pools(system, MemoryKind::System, &pools),
            system_total: self.ram_total,
            pool_reserved: pools.iter().map(|(_, stats)| stats.reserved).sum(),
            pool_allocated: pools.iter().map(|(_, stats)| stats.allocated).sum(),
        }
    }

    /// The figures of every named pool.
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

    /// NPU memory in figures. Reads this process's mappings.
    pub fn npu_stats(&self) -> NpuStats {
        let info = self.info();
        let domains: Vec<_> = self.domains();
        let memory = self.proc.meminfo().unwrap_or_default();
        let ram = Ram::read().map_or(0, |ram| ram.available);
        let gauges = self.device.backend().gauges(0);
        let cma = match info.kind {
            // It plays its own area, and never takes from the machine's.
            Kind::Simulated if !info.iommu => Some(info.domain_bytes).zip(gauges.free),
            Kind::Simulated | Kind::Rocket => None,
            _ => memory.cma_total.zip(memory.cma_free),
        };
        let pools: Vec<_> = self.pools().into_iter().map(|pool| (pool.kind(), pool.stats())).collect();
        let slabs = self.slabs.stats();
        let (limit, room) = self.accounting.limit_and_room(MemoryKind::Npu);
        let own = self.accounting.read(|accounts| accounts.npu);
        let counters = with_pools(own, MemoryKind::Npu, &pools);
        let reach = match (info.iommu, cma) {
            (true, _) => domains.iter().map(DomainStats::free).sum(),
            (false, Some((_, free))) if info.kind != Kind::DmaHeap => free,
            (false, _) if info.kind == Kind::DmaHeap => ram,
            _ => info.domain_bytes.saturating_sub(counters.used),
        };
        let slices: u64 = slabs.iter().map(|stats| stats.live).sum();
        let chunks = pools.iter().filter(|(kind, _)| *kind == MemoryKind::Npu).map(|(_, stats)| stats);
        NpuStats {
            counters,
            total: self.npu_total,
            available: reach.min(ram).min(room),
            limit,
            objects: own.live - slices.min(own.live) + chunks.chain(&slabs).map(|stats| stats.chunks).sum::<u64>(),
            slabs: SlabStats {
                reserved: slabs.iter().map(|stats| stats.reserved).sum(),
                allocated: slabs.iter().map(|stats| stats.allocated).sum(),
                late_writes: slabs.iter().map(|stats| stats.late_writes).sum(),
            },
            pending_free: self.device.pending(),
            lost: self.device.lost(),
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

    /// System memory in figures.
    pub fn system_stats(&self) -> SystemStats {
        let pools: Vec<_> = self.pools().into_iter().map(|pool| (pool.kind(), pool.stats())).collect();
        SystemStats {
            counters: with_pools(self.accounting.read(|accounts| accounts.system), MemoryKind::System, &pools),
            limit: self.accounting.limit_and_room(MemoryKind::System).0,
            memory: self.proc.meminfo().unwrap_or_default(),
            rss: self.proc.rss().unwrap_or(0),
            cgroup: self.proc.cgroup(),
            pressure: self.proc.pressure(),
        }
    }

    /// Open file descriptors and mappings of this process, and their bounds.
    pub fn process_gauges(&self) -> (Option<Gauge>, Option<Gauge>) {
        (self.proc.fds(), self.proc.maps())
    }

    /// Bytes of NPU buffers mapped here, by this library or any other, recognised by their names.
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

/// The accounting has a pool's chunks as bytes taken; its slices are counted where they are cut.
fn with_pools(mut counters: Counters, kind: MemoryKind, pools: &[(MemoryKind, PoolStats)]) -> Counters {
    for (_, stats) in pools.iter().filter(|(of, _)| *of == kind) {
        counters.live += stats.live;
        counters.allocations += stats.allocations;
        counters.frees += stats.allocations - stats.live;
        counters.failures += stats.failures;
    }
    counters
}

/// What the device can address in all; `None`: whatever RAM there is.
pub(super) fn reach(info: &DeviceInfo) -> Option<u64> {
    match (info.iommu, info.domain_bytes) {
        (_, 0) => None,
        (true, domain) => domain.checked_mul(info.domains.max(1).into()),
        (false, cma) => Some(cma),
    }
}
