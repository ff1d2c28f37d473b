//! First fit: places buffers in a given order, each at the lowest offset that those before leave free.

use super::buffers::{Lifetime, Plan};

/// Places `buffers` in `order`. Replaces `best` if the arena is smaller.
pub fn improve(buffers: &[Lifetime], order: &[usize], best: &mut Plan) {
    let mut offsets = vec![0; buffers.len()];
    // Buffers that have an offset, sorted by it.
    let mut placed: Vec<usize> = Vec::with_capacity(buffers.len());
    let mut size = 0;
    for &at in order {
        let buffer = &buffers[at];
        let mut offset = 0_u64;
        for &other in &placed {
            let (below, floor) = (&buffers[other], offsets[other]);
            if buffer.lower < below.upper && below.lower < buffer.upper {
                if floor >= offset + buffer.size {
                    break;
                }
                offset = offset.max((floor + below.size).next_multiple_of(buffer.alignment));
            }
        }
        offsets[at] = offset;
        size = size.max(offset + buffer.size);
        if size >= best.size {
            return;
        }
        let place = placed.partition_point(|&other| offsets[other] < offset);
        placed.insert(place, at);
    }
    (best.size, best.offsets) = (size, offsets);
}
