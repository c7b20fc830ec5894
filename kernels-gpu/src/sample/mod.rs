//! Choosing the next token on the device, so that a decode step needs no round trip to the host.
//!
//! [`argmax_slices_f32`] and [`argmax_f32`] take the largest logit. The chain takes two launches, too: [`sample_slices_f32`] sorts each slice of the
//! vocabulary coarsely, with many blocks, and [`sample_draw_f32`] looks only at those few pieces of the slices in which
//! a stage's border or the token drawn can lie. Its stages, in this order:
//!
//! 1. *penalties* of the recent tokens: their logits are divided by the repeat penalty if positive and multiplied by it
//!    if not; then the presence penalty and, for each occurrence, the frequency penalty are taken away;
//! 2. *top-k*: the `k` largest logits stay;
//! 3. *top-p*: of those, the smallest set of most probable tokens whose probabilities sum to `p` or more;
//! 4. *min-p*: of those, the tokens at least `min_p` times as probable as the best one;
//! 5. *temperature*: logits are divided by it;
//! 6. *draw*: the first token, in the order of ids, at which the sum of probabilities exceeds the random number.
//!
//! Equal logits are ranked by id, the lowest first, in every stage: of the equals at the border of top-k or top-p those
//! with the lowest ids stay. Each of the stages 2 to 4 keeps a first part of that one ranking, so what they keep together
//! is known by its last member, the *cut*.
//!
//! Weights, e^(logit − largest), are whole multiples of 2⁻³⁹: their sums are exact, so they depend
//! neither on the order of blocks nor on that of threads, and one input gives the same token every time.

pub mod chain;
pub mod random;

mod argmax;
mod draw;
mod records;
mod search;
mod slices;
mod sums;

pub use argmax::{argmax_blocks, argmax_bytes, argmax_f32, argmax_slices_f32};
pub use chain::{CHAIN_WORDS, Chain};
pub use draw::{sample_draw_bytes, sample_draw_f32};
pub use slices::{
    MAX_VOCAB, RECORD_WORDS, SLICE, sample_slices_bytes, sample_slices_f32, sample_slices_flops,
    slices_blocks, slices_words,
};

/// The status word after a launch that met a NaN or +∞, which no softmax has an answer to: the token is not valid.
pub const STATUS_NAN: u32 = 1;
/// The status word after a launch in which no logit was above −∞: the token is not valid.
pub const STATUS_NO_CANDIDATE: u32 = 2;
