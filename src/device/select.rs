//! Selects the device of a manager.

use std::path::Path;
use std::sync::Arc;

use crate::backend::probe;
use crate::backend::simulated::{Options, Simulated};
use crate::backend::Kind;
use crate::device::Device;
use crate::error::{Error, ErrorCode, Result};

/// The requested backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendChoice {
    /// The best NPU of the machine; the simulated device if there is none.
    Auto,
    /// This kernel interface only.
    Only(Kind),
}

/// An opened device, and whether it replaces a missing one.
#[derive(Debug)]
pub struct Opened {
    /// The device.
    pub device: Arc<Device>,
    /// Whether [`BackendChoice::Auto`] found no NPU.
    pub fell_back: bool,
}

/// Opens the device of `choice`. `node` is a device node or a heap's name that replaces the probe's choice; `simulated`
/// describes the board of a simulated device.
///
/// Errors: `ERR_DEVICE_NOT_FOUND`, `ERR_DEVICE_PERMISSION`, `ERR_DEVICE_IO`, `ERR_TOO_MANY_FDS`; `ERR_OUT_OF_RANGE` for
/// an impossible simulated board; `ERR_INVALID_ARG_TYPE` for a node without a backend.
pub fn open(choice: BackendChoice, node: Option<&Path>, simulated: Option<Options>) -> Result<Opened> {
    let kind = match choice {
        BackendChoice::Only(kind) => kind,
        BackendChoice::Auto if node.is_some() => {
            let message = "`device` names a node, but `backend` is missing";
            return Err(Error::new(ErrorCode::InvalidArgType, message).hint("give `backend` as well"));
        }
        BackendChoice::Auto => match probe::open_best()? {
            Some(backend) => return Ok(Opened { device: Device::shared(backend.into()), fell_back: false }),
            None => Kind::Simulated,
        },
    };
    let fell_back = choice == BackendChoice::Auto && kind == Kind::Simulated;
    if kind != Kind::Simulated {
        return Ok(Opened { device: open_node(kind, node)?, fell_back });
    }
    if let Some(node) = node {
        return Err(Error::new(ErrorCode::DeviceNotFound, "the simulated device has no node").path(node));
    }
    let device = Device::new(Arc::new(Simulated::new(simulated.unwrap_or_default())?));
    Ok(Opened { device, fell_back })
}

fn open_node(kind: Kind, node: Option<&Path>) -> Result<Arc<Device>> {
    if let Some(open) = node.and_then(|node| Device::already_open(kind, node)) {
        return Ok(open);
    }
    probe::open(kind, node).map(|backend| Device::shared(backend.into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_node_needs_a_backend_and_the_simulated_device_has_none() {
        let node = Path::new("/dev/null");
        assert_eq!(open(BackendChoice::Auto, Some(node), None).unwrap_err().code(), ErrorCode::InvalidArgType);
        let simulated = open(BackendChoice::Only(Kind::Simulated), Some(node), None).unwrap_err();
        assert_eq!(simulated.code(), ErrorCode::DeviceNotFound);
        let wrong =
            open(BackendChoice::Only(Kind::RknpuHeap), Some(Path::new("/nonexistent/rknpu")), None).unwrap_err();
        assert_eq!(wrong.code(), ErrorCode::DeviceNotFound);
    }
}
