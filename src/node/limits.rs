//! Limits, reservations, and the warnings that come with them.

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::realm::{manager, throw};
use crate::accounting::{Limit, Limits, Scope, Warning};
use crate::handle::Handle;
use crate::units::{human, MemoryKind};

/// A limit, or none where `max` is absent.
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

/// The limits that change; the others stay.
#[napi(object)]
pub struct LimitsRequest {
    pub npu: Option<LimitRequest>,
    pub system: Option<LimitRequest>,
    pub total: Option<LimitRequest>,
    pub tags: Vec<TagLimitRequest>,
}

/// A tag's limit.
#[napi(object)]
pub struct TagLimitRequest {
    pub tag: String,
    pub limit: LimitRequest,
}

/// Changes what a manager may hold.
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

/// What JavaScript is told of a warning.
#[napi(object)]
pub struct WarningNews {
    pub scope: String,
    pub used: f64,
    pub max: f64,
    pub ratio: f64,
    pub message: String,
}

impl From<Warning> for WarningNews {
    fn from(Warning { scope, used, max }: Warning) -> Self {
        let ratio = used as f64 / max as f64;
        let percent = (ratio * 100.0).floor();
        let remedy = match scope {
            Scope::Npu | Scope::System | Scope::Total | Scope::Tag(_) => {
                "deallocate what is no longer used, or raise the limit with setMemoryLimits"
            }
            Scope::Pool(_) => "free what is no longer used, or give the pool a larger maxSize",
            Scope::Domain(_) => "deallocate what is no longer used, or use another iommuDomain",
        };
        let message = format!("{scope}: {} of {} are in use ({percent} %): {remedy}", human(used), human(max));
        Self { scope: scope.to_string(), used: used as f64, max: max as f64, ratio, message }
    }
}

/// The warnings since the last time.
#[napi(catch_unwind)]
pub fn take_warnings(env: &Env, handle: f64) -> Result<Vec<WarningNews>> {
    let warnings = manager(handle).map_err(throw(env))?.take_warnings();
    Ok(warnings.into_iter().map(Into::into).collect())
}

/// Keeps memory free for somebody else; the reservation's handle.
#[napi(catch_unwind)]
pub fn reserve(env: &Env, handle: f64, npu: bool, size: f64, tag: Option<String>, domain: Option<u32>) -> Result<f64> {
    let kind = if npu { MemoryKind::Npu } else { MemoryKind::System };
    let reserved = manager(handle).and_then(|manager| manager.reserve(kind, size as u64, tag.map(Into::into), domain));
    reserved.map(|reservation| reservation.get() as f64).map_err(throw(env))
}

/// Ends a reservation; false when it, or its manager, was ended before.
#[napi(catch_unwind)]
pub fn release_reservation(handle: f64, reservation: f64) -> bool {
    manager(handle).is_ok_and(|manager| manager.release(Handle::from_raw(reservation as u64)))
}

/// A reservation as the statistics show it.
#[napi(object, use_nullable = true)]
pub struct ReservationFigures {
    pub tag: Option<String>,
    pub kind: String,
    pub size: f64,
}

/// Every reservation of a manager.
#[napi(catch_unwind)]
pub fn reservations(env: &Env, handle: f64) -> Result<Vec<ReservationFigures>> {
    let held = manager(handle).map_err(throw(env))?.reservations();
    let figures = held.into_iter().map(|(kind, tag, size)| ReservationFigures {
        tag: tag.map(|tag| tag.to_string()),
        kind: kind.as_str().to_owned(),
        size: size as f64,
    });
    Ok(figures.collect())
}
