//! What checked mode remembers of accesses, to find races and reads of unwritten memory.
//!
//! Every element of memory that a launch may write has a cell of two words: its last write and its last
//! read, each with thread and time. Time is counted per warp: it advances at every barrier of the block and
//! every `warp::sync`. Two accesses are ordered if the same thread makes both, or the time of their warp has
//! advanced between them, or (for threads of different warps) the warp of the later one knows the time of the earlier
//! one: by a barrier at which both met, or by a barrier in shared memory at which one arrived and for which the other
//! waited. Accesses that are not ordered, one of them a write, are a race.
//!
//! The blocks of a cluster have one clock, and what they touch of each other's shared memory is ordered by it like all else.
//! In global memory accesses by different blocks are not ordered, whatever barriers they meet at.
//!
//! Two simplifications: a warp arrives and waits as a whole, whichever of its lanes does; and reads of one element by
//! several warps count as done only after a barrier of the whole block.

mod cell;
mod clock;
mod count;
mod global;
mod shared;
mod written;

pub use cell::{MAX_BLOCKS, global_tag};
pub use clock::{COPY_ENGINE, Clock, MAX_WARPS, NO_TIMES, TENSOR_CORES, Times, join, place, rank_of};
pub use count::{Counter, LaunchReport, SiteReport, Space};
pub use global::{CellStore, Cells, GlobalAccess, check_copied, check_global};
pub use shared::{Carved, Piece, SharedAccess, SharedShadow};
pub use written::WrittenMap;
