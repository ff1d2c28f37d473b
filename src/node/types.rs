//! The objects that cross the border. `null` is "not known"; sizes are bytes.

use napi::bindgen_prelude::*;
use napi_derive::napi;

use crate::accounting::Counters;
use crate::allocation::Allocation;
use crate::backend::{self, simulated, DeviceInfo, Placement};
use crate::device::memory::HugePages;
use crate::manager::{DomainStats, NpuOptions, NpuStats, PoolMemory, PoolOptions, SystemOptions, SystemStats};
use crate::pool::{PoolStats, SlabOptions};
use crate::units::MemoryKind;

#[napi(object, use_nullable = true)]
pub struct Device {
    pub backend: String,
    pub simulated: bool,
    pub path: Option<String>,
    pub soc: Option<String>,
    pub driver_version: Option<String>,
    pub npu_cores: Option<u32>,
    pub iommu: bool,
    pub iommu_domains: u32,
    pub domain_bytes: f64,
    pub sram_total: f64,
    pub sram_free: f64,
}

impl Device {
    pub fn new(info: &DeviceInfo, sram_free: u64) -> Self {
        Self {
            backend: info.kind.as_str().to_owned(),
            simulated: info.kind == backend::Kind::Simulated,
            path: info.path.as_ref().map(|path| path.to_string_lossy().into_owned()),
            soc: info.soc.clone(),
            driver_version: info.driver_version.clone(),
            npu_cores: info.npu_cores,
            iommu: info.iommu,
            iommu_domains: info.domains,
            domain_bytes: info.domain_bytes as f64,
            sram_total: info.sram_total as f64,
            sram_free: sram_free as f64,
        }
    }
}

#[napi(object)]
pub struct Simulated {
    pub soc: Option<String>,
    pub domain_bytes: Option<f64>,
    pub domains: Option<u32>,
    pub sram_bytes: Option<f64>,
    pub max_objects: Option<f64>,
    pub latency_ms: Option<f64>,
}

impl From<Simulated> for simulated::Options {
    fn from(options: Simulated) -> Self {
        Self {
            soc: options.soc,
            domain_bytes: options.domain_bytes.map(|n| n as u64),
            domains: options.domains,
            sram_bytes: options.sram_bytes.map(|n| n as u64),
            max_objects: options.max_objects.map(|n| n as u64),
            // src/js bounds it to a minute.
            latency: std::time::Duration::from_secs_f64(options.latency_ms.unwrap_or(0.0).clamp(0.0, 60_000.0) / 1e3),
        }
    }
}

#[napi(object)]
#[derive(Default)]
pub struct Npu {
    pub tag: Option<String>,
    pub alignment: Option<f64>,
    pub zeroed: Option<bool>,
    pub cacheable: Option<bool>,
    pub contiguous: Option<bool>,
    pub sram: Option<bool>,
    pub iommu_domain: Option<u32>,
    pub core_mask: Option<u32>,
    pub dedicated: Option<bool>,
}

impl From<Npu> for NpuOptions {
    fn from(options: Npu) -> Self {
        Self {
            tag: options.tag.map(Into::into),
            alignment: options.alignment.map(|n| n as u64),
            dirty: options.zeroed == Some(false),
            uncached: options.cacheable == Some(false),
            contiguous: options.contiguous,
            placement: if options.sram == Some(true) { Placement::TrySram } else { Placement::Dram },
            domain: options.iommu_domain.unwrap_or(0),
            core_mask: options.core_mask.unwrap_or(0),
            dedicated: options.dedicated == Some(true),
        }
    }
}

#[napi(object)]
#[derive(Default)]
pub struct System {
    pub tag: Option<String>,
    pub alignment: Option<f64>,
    /// `false` is "try".
    pub huge_pages: Option<bool>,
    pub lock: Option<bool>,
    pub prefault: Option<bool>,
}

impl From<System> for SystemOptions {
    fn from(options: System) -> Self {
        Self {
            tag: options.tag.map(Into::into),
            alignment: options.alignment.map(|n| n as u64),
            huge_pages: match options.huge_pages {
                None => HugePages::No,
                Some(false) => HugePages::Try,
                Some(true) => HugePages::Must,
            },
            lock: options.lock == Some(true),
            prefault: options.prefault == Some(true),
        }
    }
}

#[napi(object, use_nullable = true)]
pub struct Buffer {
    pub id: f64,
    pub kind: String,
    pub size: f64,
    pub reserved_size: f64,
    pub tag: Option<String>,
    pub backend: Option<String>,
    pub address: BigInt,
    pub device_address: Option<BigInt>,
    pub cacheable: bool,
    pub contiguous: bool,
    pub iommu_domain: Option<u32>,
    pub dedicated: bool,
    pub imported: bool,
    pub shared: bool,
    pub pool: Option<String>,
    pub offset: f64,
    pub allocated_at: f64,
    pub stack: Option<String>,
}

impl Buffer {
    pub fn new(allocation: &Allocation, kind: backend::Kind, stack: Option<&str>) -> Self {
        let object = allocation.object.as_ref();
        let since = allocation.allocated_at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            id: allocation.id.get() as f64,
            kind: allocation.kind.as_str().to_owned(),
            size: allocation.size as f64,
            reserved_size: allocation.reserved as f64,
            tag: allocation.tag.as_deref().map(str::to_owned),
            backend: object.map(|_| kind.as_str().to_owned()),
            address: BigInt::from(allocation.address as u64),
            device_address: object
                .and_then(|object| object.device_address)
                .map(|address| BigInt::from(address + allocation.offset)),
            cacheable: object.is_none_or(|object| object.cacheable),
            contiguous: object.is_some_and(|object| object.contiguous),
            iommu_domain: object.and_then(|object| object.domain),
            dedicated: allocation.dedicated && object.is_some(),
            imported: object.is_some_and(|object| object.imported),
            shared: allocation.is_shared(),
            pool: allocation.pool.as_deref().map(str::to_owned),
            offset: allocation.offset as f64,
            allocated_at: since.as_secs_f64() * 1e3,
            stack: stack.map(str::to_owned),
        }
    }
}

#[napi(object)]
pub struct Count {
    pub used: f64,
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
            peak: counters.peak as f64,
            live_allocations: counters.live as f64,
            total_allocations: counters.allocations as f64,
            total_frees: counters.frees as f64,
            failed_allocations: counters.failures as f64,
        }
    }
}

#[napi(object)]
pub struct Tag {
    pub tag: String,
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
pub struct NpuFigures {
    pub counters: Count,
    pub total: f64,
    pub available: f64,
    pub limit: Option<f64>,
    pub objects: f64,
    pub pending_free: f64,
    pub lost_objects: f64,
    pub lost_bytes: f64,
    pub slab_reserved: f64,
    pub slab_allocated: f64,
    pub slab_late_writes: f64,
    pub domains: Vec<Domain>,
    pub process_mapped: Option<f64>,
    pub sram_free: f64,
    pub cma_total: Option<f64>,
    pub cma_free: Option<f64>,
    pub load: Option<Vec<f64>>,
}

impl From<NpuStats> for NpuFigures {
    fn from(stats: NpuStats) -> Self {
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
            lost_bytes: stats.lost.1 as f64,
            slab_reserved: stats.slabs.reserved as f64,
            slab_allocated: stats.slabs.allocated as f64,
            slab_late_writes: stats.slabs.late_writes as f64,
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
pub struct SystemFigures {
    pub counters: Count,
    pub limit: Option<f64>,
    pub total: f64,
    pub available: f64,
    pub swap_total: f64,
    pub swap_free: f64,
    pub rss: f64,
    pub cgroup: Option<Group>,
    pub pressure: Option<Stall>,
}

impl From<SystemStats> for SystemFigures {
    fn from(stats: SystemStats) -> Self {
        Self {
            counters: stats.counters.into(),
            limit: stats.limit.map(|n| n as f64),
            total: stats.memory.total as f64,
            available: stats.memory.available as f64,
            swap_total: stats.memory.swap_total as f64,
            swap_free: stats.memory.swap_free as f64,
            rss: stats.rss as f64,
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
    pub live_allocations: f64,
}

/// How small NPU allocations share kernel objects.
#[napi(object)]
pub struct Slabs {
    pub threshold: Option<f64>,
    pub size: Option<f64>,
    pub delay_reuse: Option<u32>,
}

impl From<Slabs> for SlabOptions {
    fn from(options: Slabs) -> Self {
        let default = Self::default();
        Self {
            threshold: options.threshold.map_or(default.threshold, |n| n as u64),
            size: options.size.map_or(default.size, |n| n as u64),
            delay: options.delay_reuse.unwrap_or(0) as usize,
        }
    }
}

/// A pool to be made.
#[napi(object)]
pub struct PoolRequest {
    pub name: String,
    pub initial_size: f64,
    pub max_size: Option<f64>,
    pub chunk_size: Option<f64>,
    pub block_size: Option<f64>,
    pub alignment: Option<f64>,
    /// For a pool of NPU memory.
    pub npu: Option<Npu>,
    /// For a pool of system memory.
    pub system: Option<System>,
}

impl From<PoolRequest> for PoolOptions {
    fn from(request: PoolRequest) -> Self {
        Self {
            name: request.name.into(),
            initial: request.initial_size as u64,
            max: request.max_size.map(|n| n as u64),
            chunk: request.chunk_size.map(|n| n as u64),
            block: request.block_size.map(|n| n as u64),
            alignment: request.alignment.map(|n| n as u64),
            memory: match request.system {
                Some(system) => PoolMemory::System(system.into()),
                None => PoolMemory::Npu(request.npu.unwrap_or_default().into()),
            },
        }
    }
}

#[napi(object)]
pub struct PoolFigures {
    pub name: String,
    pub kind: String,
    pub chunks: f64,
    pub reserved: f64,
    pub allocated: f64,
    pub requested: f64,
    pub free: f64,
    pub peak_allocated: f64,
    pub largest_free: f64,
    pub live_allocations: f64,
    pub total_allocations: f64,
    pub failed_allocations: f64,
    pub fragmentation: f64,
    pub late_writes: f64,
}

impl PoolFigures {
    pub fn new(name: &str, kind: MemoryKind, stats: &PoolStats) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.as_str().to_owned(),
            chunks: stats.chunks as f64,
            reserved: stats.reserved as f64,
            allocated: stats.allocated as f64,
            requested: stats.requested as f64,
            free: stats.free as f64,
            peak_allocated: stats.peak_allocated as f64,
            largest_free: stats.largest_free as f64,
            live_allocations: stats.live as f64,
            total_allocations: stats.allocations as f64,
            failed_allocations: stats.failures as f64,
            fragmentation: stats.fragmentation(),
            late_writes: stats.late_writes as f64,
        }
    }
}
