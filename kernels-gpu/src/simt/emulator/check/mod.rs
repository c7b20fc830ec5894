//! What checked mode remembers of accesses, to find races and reads of unwritten memory.
//!
//! Every element of memory that a launch may write has a cell of two words: its last write and its last
//! read, each with thread and time. Time is counted per warp: it advances at every barrier of the block and
//! every `warp::sync`. Two accesses are ordered if the same thread makes both, or the time of their warp has
//! advanced between them, or (for threads of different warps) a barrier of the block has opened between them.
//! Accesses that are not ordered, one of them a write, are a race.

mod cell;
mod clock;
mod count;
mod global;
mod shared;
mod written;

pub use cell::{MAX_BLOCKS, global_tag};
pub use clock::Clock;
pub use count::{Counter, LaunchReport, SiteReport, Space};
pub use global::{CellStore, Cells, GlobalAccess, check_global};
pub use shared::{Carved, SharedAccess, SharedShadow};
pub use written::WrittenMap;
