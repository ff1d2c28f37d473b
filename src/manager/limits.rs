//! A manager's limits, warnings and reservations.

use std::sync::Arc;

use super::reservation::Reservation;
use super::Manager;
use crate::accounting::{Account, Limits, Warning};
use crate::device::SetAside;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::{Handle, Table};
use crate::sync::MutexGuard;
use crate::units::{format_bytes, MemoryKind};

impl Manager {
    /// Changes limits. A limit below the present usage refuses allocations until enough memory is freed.
    pub fn set_limits(&self, change: Limits) {
        self.accounting.set_limits(change);
    }

    /// Takes the warnings since the last call, of limits, pools and domains that are nearly full. Changes of
    /// [`notifications`](crate::accounting::notifications) tell when to call.
    pub fn take_warnings(&self) -> Vec<Warning> {
        self.accounting.take_warnings()
    }

    /// Keeps `size` bytes free for other libraries until [`release`](Self::release).
    ///
    /// Errors: `ERR_MEMORY_LIMIT`; for NPU memory `ERR_OUT_OF_RANGE` beyond the device's capacity, and
    /// `ERR_IOVA_EXHAUSTED` if the domain has no room.
    pub fn reserve(&self, kind: MemoryKind, size: u64, tag: Option<Arc<str>>, domain: Option<u32>) -> Result<Handle> {
        if let (MemoryKind::System, Some(id)) = (kind, domain) {
            let message = format!("system memory has no IOMMU domain, but iommuDomain is {id}");
            return Err(Error::new(ErrorCode::OutOfRange, message).hint("omit iommuDomain for system memory"));
        }
        let account = Account { accounting: Arc::clone(&self.accounting), kind: Some(kind), tag: tag.clone() };
        let keep = || {
            let admission = account.admit(size)?;
            let set_aside = self.set_aside(kind, size, domain)?;
            Ok((admission, set_aside))
        };
        let (admission, set_aside) = keep().inspect_err(|_refusal: &Error| account.failed(size))?;
        admission.set_aside();
        Ok(self.reserved().insert(Reservation { kind, tag, size, account, _domain: set_aside }))
    }

    /// Keeps `size` bytes of the device or of RAM free.
    fn set_aside(&self, kind: MemoryKind, size: u64, domain: Option<u32>) -> Result<Option<SetAside>> {
        match kind {
            MemoryKind::Npu => self.device.set_aside(domain.unwrap_or(0), size).map(Some),
            MemoryKind::System if size > self.ram_total => {
                let message = format!(
                    "{} is more than the {} of RAM that this machine has",
                    format_bytes(size),
                    format_bytes(self.ram_total)
                );
                Err(Error::new(ErrorCode::OutOfRange, message).requested(size).limit("ram", self.ram_total))
            }
            MemoryKind::System => Ok(None),
        }
    }

    /// Ends a reservation. Returns false if the reservation was ended before.
    pub fn release(&self, reservation: Handle) -> bool {
        let ended = self.reserved().remove(reservation);
        ended.is_some()
    }

    /// Returns whether a reservation holds its bytes: neither it nor the manager was ended.
    pub fn is_reserved(&self, reservation: Handle) -> bool {
        self.reserved().get(reservation).is_some()
    }

    /// Returns the kind, tag and bytes of every reservation.
    pub fn reservations(&self) -> Vec<(MemoryKind, Option<Arc<str>>, u64)> {
        self.reserved().iter().map(|(_, held)| (held.kind, held.tag.clone(), held.size)).collect()
    }

    pub(super) fn release_all(&self) {
        let all = std::mem::take(&mut *self.reserved());
        drop(all); // after unlocking
    }

    fn reserved(&self) -> MutexGuard<'_, Table<Reservation>> {
        self.reservations.lock()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::accounting::{Limit, Scope, WARN_AT};
    use crate::allocation::Reachability;
    use crate::backend::simulated::{Options, Simulated};
    use crate::device::Device;
    use crate::manager::{NpuOptions, PoolMemory, PoolOptions, SystemOptions};
    use crate::pool::SlabOptions;
    use crate::sys::page::page_size;
    use crate::units::{GIB, KIB, MIB};

    fn manager() -> Arc<Manager> {
        let device = Device::new(Arc::new(Simulated::new(Options::default()).unwrap()));
        Arc::new(Manager::new(device, SlabOptions { threshold: 0, ..SlabOptions::default() }))
    }

    fn bound(manager: &Manager, scope: Scope, max: u64) {
        let limit = Limit::new(Some(max), &WARN_AT);
        manager.set_limits(match scope {
            Scope::Npu => Limits { npu: Some(limit), ..Limits::default() },
            Scope::System => Limits { system: Some(limit), ..Limits::default() },
            Scope::Total => Limits { total: Some(limit), ..Limits::default() },
            Scope::Tag(tag) => Limits { tags: vec![(tag, limit)], ..Limits::default() },
            Scope::Pool(_) | Scope::Domain(_) => unreachable!(),
        });
    }

    fn unbound(manager: &Manager) {
        let [npu, system, total] = std::array::from_fn(|_| Some(Limit::default()));
        manager.set_limits(Limits { npu, system, total, tags: vec![("kv".into(), Limit::default())] });
    }

    fn tagged(tag: &str) -> NpuOptions {
        NpuOptions { tag: Some(tag.into()), ..NpuOptions::default() }
    }

    #[test]
    fn the_tightest_limit_refuses_with_its_figures() {
        let manager = manager();
        bound(&manager, Scope::Npu, 8 * MIB);
        bound(&manager, Scope::Total, 6 * MIB);
        bound(&manager, Scope::Tag("kv".into()), 2 * MIB);
        let first = manager.allocate_npu(MIB, &tagged("kv")).unwrap();
        for (size, options, scope, available, limit) in [
            (MIB + 1, tagged("kv"), "tag:kv", MIB, 2 * MIB),
            (5 * MIB + 1, NpuOptions::default(), "total", 5 * MIB, 6 * MIB),
            (9 * MIB, tagged("kv"), "tag:kv", MIB, 2 * MIB),
        ] {
            let error = manager.allocate_npu(size, &options).unwrap_err();
            let details = error.details();
            assert_eq!((error.code(), details.requested), (ErrorCode::MemoryLimit, Some(size)));
            assert_eq!((details.scope.as_deref(), details.available), (Some(scope), Some(available)));
            assert_eq!((details.limit, details.hint.is_some()), (Some(limit), true));
        }
        assert_eq!(manager.npu_stats().counters.failures, 3);
        let rest = manager.allocate_system(5 * MIB, &SystemOptions::default()).unwrap();
        assert_eq!(manager.allocate_npu(1, &NpuOptions::default()).unwrap_err().code(), ErrorCode::MemoryLimit);
        rest.finalize(Reachability::Unreachable);
        manager.allocate_npu(5 * MIB, &NpuOptions::default()).unwrap().finalize(Reachability::Unreachable);
        first.finalize(Reachability::Unreachable);
        let left = manager.accounts();
        assert_eq!((left.npu.committed(), left.system.committed(), left.tags["kv"].counters().committed()), (0, 0, 0));
    }

    #[test]
    fn a_limit_below_the_present_usage_frees_no_memory() {
        let manager = manager();
        let held = manager.allocate_npu(4 * MIB, &NpuOptions::default()).unwrap();
        bound(&manager, Scope::Npu, MIB);
        assert_eq!(manager.allocate_npu(1, &NpuOptions::default()).unwrap_err().details().available, Some(0));
        assert!(held.is_live());
        held.finalize(Reachability::Unreachable);
        manager.allocate_npu(MIB, &NpuOptions::default()).unwrap().finalize(Reachability::Unreachable);
        unbound(&manager);
        manager.allocate_npu(4 * MIB, &NpuOptions::default()).unwrap().finalize(Reachability::Unreachable);
    }

    #[test]
    fn eight_threads_never_exceed_a_limit_and_no_fitting_request_fails() {
        let manager = manager();
        let page = page_size();
        // Seven threads hold at most one page each, which the limit allows; an eighth requests more than the limit.
        bound(&manager, Scope::Total, 7 * page);
        std::thread::scope(|scope| {
            for at in 0..7 {
                let manager = &manager;
                scope.spawn(move || {
                    for round in 0..2_000 {
                        let allocation = match (at + round) % 2 {
                            0 => manager.allocate_npu(1, &tagged("mine")).unwrap(),
                            _ => manager.allocate_system(1, &SystemOptions::default()).unwrap(),
                        };
                        let accounts = manager.accounts();
                        assert!(accounts.npu.committed() + accounts.system.committed() <= 7 * page);
                        allocation.finalize(Reachability::Unreachable);
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..4_000 {
                    let error = manager.allocate_npu(7 * page + 1, &tagged("doomed")).unwrap_err();
                    assert_eq!(error.code(), ErrorCode::MemoryLimit);
                }
            });
        });
        assert_eq!(manager.accounts().npu.committed() + manager.accounts().system.committed(), 0);
    }

    #[test]
    fn pools_are_counted_by_their_chunks_and_cannot_grow_past_a_limit() {
        let manager = manager();
        bound(&manager, Scope::Npu, 3 * MIB);
        let options = PoolOptions {
            name: "p".into(),
            initial: MIB,
            max: Some(GIB),
            chunk: Some(MIB),
            block: None,
            alignment: None,
            reuse_after: None,
            grow_ahead: 0.0,
            memory: PoolMemory::Npu(tagged("pool")),
        };
        let pool = manager.create_pool(&options).unwrap();
        let slices: Vec<_> = (0..3).map(|_| pool.allocate(MIB, 64).unwrap()).collect();
        let error = pool.allocate(MIB, 64).unwrap_err();
        assert_eq!((error.code(), error.details().scope.as_deref()), (ErrorCode::MemoryLimit, Some("npu")));
        assert_eq!(manager.accounts().tags["pool"].counters().used, 3 * MIB);
        pool.free(slices[0].chunk, slices[0].region).unwrap();
        pool.allocate(MIB, 64).unwrap();
        // A whole chunk would exceed the limit; the requested size does not.
        bound(&manager, Scope::Npu, 3 * MIB + 256 * KIB);
        pool.allocate(200 * KIB, 64).unwrap();
        assert_eq!(pool.stats().reserved, 3 * MIB + 256 * KIB);
        manager.destroy_pool(&pool, true).unwrap();
        assert_eq!(manager.accounts().npu.committed(), 0);
    }

    #[test]
    fn a_reservation_counts_like_memory() {
        let manager = manager();
        bound(&manager, Scope::Npu, 5 * GIB);
        let weights = manager.reserve(MemoryKind::Npu, 3 * GIB, Some("weights".into()), None).unwrap();
        let error = manager.allocate_npu(2 * GIB, &NpuOptions::default()).unwrap_err();
        assert_eq!((error.code(), error.details().available), (ErrorCode::IovaExhausted, Some(GIB)));
        let error = manager.reserve(MemoryKind::Npu, 2 * GIB + 1, None, Some(1)).unwrap_err();
        assert_eq!((error.code(), error.details().available), (ErrorCode::MemoryLimit, Some(2 * GIB)));
        let domain = &manager.npu_stats().domains[0];
        assert_eq!((domain.used, domain.for_others), (0, 3 * GIB));
        assert_eq!(manager.accounts().tags["weights"].counters().in_use(), 3 * GIB);
        assert_eq!(manager.reservations(), [(MemoryKind::Npu, Some("weights".into()), 3 * GIB)]);
        assert!(manager.release(weights) && !manager.release(weights));
        let too_much = manager.reserve(MemoryKind::System, 1 << 50, None, None).unwrap_err();
        assert_eq!(too_much.code(), ErrorCode::OutOfRange);
        assert!(manager.reserve(MemoryKind::Npu, 1, None, Some(99)).is_err());
        manager.reserve(MemoryKind::System, MIB, None, None).unwrap();
        manager.dispose();
        let accounts = manager.accounts();
        assert_eq!((accounts.npu.committed(), accounts.system.committed()), (0, 0));
        assert_eq!(manager.reserve(MemoryKind::Npu, 1, None, None).unwrap_err().code(), ErrorCode::ManagerDisposed);
    }

    #[test]
    fn warnings_name_every_limit_that_is_nearly_reached() {
        let device = Device::new(Arc::new(
            Simulated::new(Options { domain_bytes: Some(10 * MIB), domains: Some(1), ..Options::default() }).unwrap(),
        ));
        let manager = Manager::new(device, SlabOptions { threshold: 0, ..SlabOptions::default() });
        let scopes = || manager.take_warnings().iter().map(|warning| warning.scope.to_string()).collect::<Vec<_>>();
        bound(&manager, Scope::Tag("kv".into()), 4 * MIB);
        bound(&manager, Scope::Total, 5 * MIB);
        let first = manager.allocate_npu(4 * MIB, &tagged("kv")).unwrap();
        assert_eq!(scopes(), ["total", "tag:kv"]);
        manager.allocate_npu(page_size(), &NpuOptions::default()).unwrap().finalize(Reachability::Unreachable);
        assert!(scopes().is_empty(), "a level warns once");
        first.finalize(Reachability::Unreachable);
        unbound(&manager);
        let full = manager.allocate_npu(8 * MIB, &NpuOptions::default()).unwrap();
        assert_eq!(scopes(), ["domain:0"]);
        bound(&manager, Scope::Npu, 8 * MIB);
        assert_eq!(scopes(), ["npu"], "a limit below the present usage warns at once");
        full.finalize(Reachability::Unreachable);
    }
}
