//! Which device a manager gets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::simulated::{Options, Simulated};
use crate::backend::{DeviceInfo, Kind};
use crate::device::Device;
use crate::error::{Error, ErrorCode, Result};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The best NPU there is; the simulated one only where there is none.
    Auto,
    /// That kernel interface and no other.
    Only(Kind),
}

/// A device, and whether it stands in for one that is not there.
#[derive(Debug)]
pub struct Opened {
    /// What was opened.
    pub device: Arc<Device>,
    /// [`Choice::Auto`] found no NPU.
    pub fell_back: bool,
}

/// A candidate: what it is, or why it cannot be opened.
#[derive(Debug)]
pub struct Probed {
    /// The kernel interface.
    pub kind: Kind,
    /// Its node.
    pub path: PathBuf,
    /// What it is, or why not.
    pub outcome: Result<DeviceInfo>,
}

/// Every device this process can open, best first, then every one it cannot and why.
pub fn probe() -> Vec<Probed> {
    Vec::new()
}

/// Opens what `choice` asks for.
pub fn open(choice: Choice, node: Option<&Path>, simulated: Option<Options>) -> Result<Opened> {
    let kind = match choice {
        Choice::Auto => Kind::Simulated,
        Choice::Only(kind) => kind,
    };
    if kind != Kind::Simulated || node.is_some() {
        return Err(Error::new(ErrorCode::DeviceNotFound, format!("no {kind} device")));
    }
    let device = Device::new(Arc::new(Simulated::new(simulated.unwrap_or_default())?));
    Ok(Opened { device, fell_back: choice == Choice::Auto })
}
