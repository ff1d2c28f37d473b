//! Pools of system memory, for unit tests.
#![allow(clippy::unwrap_used)]

use super::{Layout, Pool};
use crate::device::memory::{PageOptions, Source};
use crate::sys::page::page_size;
use crate::units::MIB;

/// A pool without a name.
pub(super) fn pool_of(layout: Layout) -> Pool {
    let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
    Pool::new(None, source, layout, None).unwrap()
}

/// A pool of one chunk of 1 MiB.
pub(super) fn pool_of_1_mib() -> Pool {
    pool_of(ONE_MIB)
}

/// One chunk of 1 MiB.
pub(super) const ONE_MIB: Layout = Layout { initial: MIB, max: MIB, chunk: MIB, block: None, alignment: 64, delay: 0 };
