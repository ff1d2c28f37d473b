//! [`DetachView`]: takes a block's view from JavaScript before the block moves.

use crate::error::Error;
use crate::handle::Handle;

/// Detaches the views of blocks that are about to move.
pub trait DetachView {
    /// Reason why a compaction cannot go on. It ends the call; moves that were made before stay.
    type Error: From<Error>;

    /// Detaches `view`, which shows the block at `address`.
    ///
    /// Errors: the caller's own.
    fn detach(&mut self, view: Handle, address: usize) -> std::result::Result<Detachment, Self::Error>;
}

/// Result of [`DetachView::detach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detachment {
    /// The view was detached. The block moves.
    Detached,
    /// The view had ended before. The block moves.
    Ended,
    /// The view is in use, or shows other bytes. The block stays.
    Refused,
}
