//! Limits, reservations and warnings.

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::env::throw;
use super::registry::manager;
use crate::accounting::{Limit, Limits, Scope, Warning};
use crate::handle::Handle;
use crate::units::{format_bytes, MemoryKind};

/// A limit; none where `max` is absent.
#[napi(object)]
pub struct LimitRequest {
    pub max: Option<f64>,
    pub warn_at: Vec<f64>,
}

impl From<LimitRequest> for Limit {
    fn from(limit: LimitRequest) -> Self {
        Limit::new(limit.max.map(|max| max as u64), &limit.warn_at)
    }
}

/// Limits to change. Absent ones stay as they are.
#[napi(object)]
pub struct LimitsRequest {
    pub npu: Option<LimitRequest>,
    pub system: Option<LimitRequest>,
    pub total: Option<LimitRequest>,
    pub tags: Vec<TagLimitRequest>,
}

/// Limit of one tag.
#[napi(object)]
pub struct TagLimitRequest {
    pub tag: String,
    pub limit: LimitRequest,
}

/// Changes the limits of a manager.
#[napi(catch_unwind)]
pub fn set_limits(env: &Env, handle: f64, limits: LimitsRequest) -> Result<()> {
    let LimitsRequest { npu, system, total, tags } = limits;
    let change = Limits {
        npu: npu.map(Into::into),
        system: system.map(Into::into),
        total: total.map(Into::into),
        tags: tags.into_iter().map(|TagLimitRequest { tag, limit }| (tag.into(), limit.into())).collect(),
    };
    manager(handle).map(|manager| manager.set_limits(change)).map_err(throw(env))
}

/// A usage that has crossed a warning threshold of its limit.
#[napi(object)]
pub struct LimitWarning {
    pub scope: String,
    pub used: f64,
    pub max: f64,
    pub ratio: f64,
    pub message: String,
}

impl LimitWarning {
    /// `domains` is the number of the device's IOMMU domains.
    fn new(Warning { scope, used, max }: Warning, domains: u32) -> Self {
        let ratio = used as f64 / max as f64;
        let percent = (ratio * 100.0).floor();
        let remedy = match scope {
            Scope::Npu | Scope::System | Scope::Total | Scope::Tag(_) => {
                "deallocate unused buffers, or raise the limit with setMemoryLimits"
            }
            Scope::Pool(_) => "free unused blocks, or give the pool a larger maxSize",
            Scope::Domain(_) if domains > 1 => "deallocate unused buffers, or use another iommuDomain",
            Scope::Domain(_) => "deallocate unused buffers",
        };
        let message =
            format!("{scope}: {} of {} are in use ({percent} %): {remedy}", format_bytes(used), format_bytes(max));
        Self { scope: scope.to_string(), used: used as f64, max: max as f64, ratio, message }
    }
}

/// Takes the warnings since the last call.
#[napi(catch_unwind)]
pub fn take_warnings(env: &Env, handle: f64) -> Result<Vec<LimitWarning>> {
    let manager = manager(handle).map_err(throw(env))?;
    let domains = manager.info().domains;
    Ok(manager.take_warnings().into_iter().map(|warning| LimitWarning::new(warning, domains)).collect())
}

/// Reserves memory for allocations that the manager does not make. Returns the reservation's handle.
#[napi(catch_unwind)]
pub fn reserve(env: &Env, handle: f64, npu: bool, size: f64, tag: Option<String>, domain: Option<u32>) -> Result<f64> {
    let kind = if npu { MemoryKind::Npu } else { MemoryKind::System };
    let reserved = manager(handle).and_then(|manager| manager.reserve(kind, size as u64, tag.map(Into::into), domain));
    reserved.map(|reservation| reservation.get() as f64).map_err(throw(env))
}

/// Releases a reservation. Returns false if it was released before, or its manager was disposed.
#[napi(catch_unwind)]
pub fn release_reservation(handle: f64, reservation: f64) -> bool {
    manager(handle).is_ok_and(|manager| manager.release(Handle::from_raw(reservation as u64)))
}

/// Returns whether a reservation still holds its bytes.
#[napi(catch_unwind)]
pub fn reservation_is_live(handle: f64, reservation: f64) -> bool {
    manager(handle).is_ok_and(|manager| manager.is_reserved(Handle::from_raw(reservation as u64)))
}

/// A reservation in the statistics.
#[napi(object, use_nullable = true)]
pub struct ReservationStats {
    pub tag: Option<String>,
    pub kind: String,
    pub size: f64,
}

/// Lists the reservations of a manager.
#[napi(catch_unwind)]
pub fn reservations(env: &Env, handle: f64) -> Result<Vec<ReservationStats>> {
    let reservations = manager(handle).map_err(throw(env))?.reservations();
    let stats = reservations.into_iter().map(|(kind, tag, size)| ReservationStats {
        tag: tag.map(|tag| tag.to_string()),
        kind: kind.as_str().to_owned(),
        size: size as f64,
    });
    Ok(stats.collect())
}
