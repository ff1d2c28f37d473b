//! Cache maintenance by kernels that know only whole objects.
//!
//! DMA_BUF_IOCTL_SYNC and rocket's PREP_BO take no range: an invalidate for one slice drops the lines that the CPU has
//! written to its neighbours. Slices of pools and slabs share objects on purpose (each object costs a descriptor), so
//! every invalidate is preceded by a clean of the object. A clean writes back dirty lines only. It is harmless for
//! memory that a job is writing, because the CPU must not have dirty lines there in any case.

use nix::errno::Errno;

use super::Direction;

/// Maintains a whole object through `kernel` without losing the CPU's writes to it.
pub(super) fn maintain_object(
    direction: Direction,
    mut kernel: impl FnMut(Direction) -> Result<(), Errno>,
) -> Result<(), Errno> {
    if direction == Direction::FromDevice {
        kernel(Direction::ToDevice)?;
    }
    kernel(direction)
}
