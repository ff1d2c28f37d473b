//! Devices: the probe, and the simulated one's options.

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::env::EnvData;
use crate::backend::probe::{self, Probed};
use crate::backend::{self, simulated, DeviceInfo, Maintenance};

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
    pub caches: Option<String>,
    pub cache_maintenance: Option<String>,
}

impl From<Simulated> for simulated::Options {
    fn from(options: Simulated) -> Self {
        Self {
            soc: options.soc,
            domain_bytes: options.domain_bytes.map(|n| n as u64),
            domains: options.domains,
            sram_bytes: options.sram_bytes.map(|n| n as u64),
            max_objects: options.max_objects.map(|n| n as u64),
            // JavaScript has checked the range; the clamp keeps `from_secs_f64` from panicking.
            latency: std::time::Duration::from_secs_f64(options.latency_ms.unwrap_or(0.0).clamp(0.0, 60_000.0) / 1e3),
            incoherent: options.caches.as_deref() == Some("incoherent"),
            maintenance: match options.cache_maintenance.as_deref() {
                Some("objects") => Maintenance::Objects,
                _ => Maintenance::Ranges,
            },
            check_sync: false,
        }
    }
}

/// Lists the devices that this process can open, best first, as `{device}`, and then those that it cannot, as
/// `{backend, path, error}`.
#[napi(catch_unwind)]
pub fn probe_devices(env: &Env) -> Result<Vec<Object<'_>>> {
    let data = EnvData::of(env)?;
    let describe = |probed: Probed| {
        let mut object = Object::new(env)?;
        match probed.outcome {
            Ok(info) => object.set("device", Device::new(&info, info.sram_total))?,
            Err(error) => {
                object.set("backend", probed.kind.as_str())?;
                object.set("path", probed.path.unwrap_or_default().to_string_lossy().as_ref())?;
                object.set("error", data.error_value(env, &error)?)?;
            }
        }
        Ok(object)
    };
    probe::probe().into_iter().map(describe).collect()
}
