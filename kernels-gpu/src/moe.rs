//! Mixtures of experts: which experts each token goes to, and the way of its rows there and back.
//!
//! A router's logits choose `n_used` of `n_experts` experts for each token. Such a choice is an **assignment**; number
//! t · n_used + j is token t's j-th, the largest logit first. For products over many tokens assignments are **grouped**:
//! brought into the order of experts, within an expert in the order of tokens. Everything here has a fixed order, no
//! atomics, so that one input gives the same bits each time.
//!
//! [`moe_route_f32`] chooses; [`moe_group`] groups; [`moe_gather_f32`] brings the tokens' rows into grouped order, where the
//! experts' products and [`moe_bias_f32`] work on them; [`moe_combine_f32`] adds up what comes back.
//!
//! Products of one token or a few need no groups: [`crate::moe_gemv`] multiplies assignments in their own order. Those of
//! many are [`crate::moe_gemm`]'s on Hopper, [`crate::moe_gemm_mma`]'s on other GPUs.

use crate::simt::prelude::*;
use crate::simt::shared;

/// Most experts of a model.
pub const MAX_EXPERTS: usize = 256;
/// Most experts of a token.
pub const MAX_USED: usize = 8;

/// Threads of a block of [`moe_route_f32`]: a warp a token.
pub const ROUTE_THREADS: u32 = 128;
/// Logits of a lane: those of experts `lane`, `lane + 32` and so on.
const LANE_EXPERTS: usize = MAX_EXPERTS / warp::SIZE as usize;

/// `experts[t]` = the `n_used` experts with the largest of `logits[t]`, the largest first, of equals the lowest;
/// `weights[t]` = their shares of a softmax: over the chosen ones, or over all if `over_all` is not zero.
///
/// (A softmax over all, divided by the chosen ones' sum, is the softmax over the chosen ones.)
///
/// `experts [n_tokens, n_used]`, `weights [n_tokens, n_used]`, `logits [n_tokens, n_experts]`. A NaN counts as −∞ in the
/// choice, so experts exist and differ whatever the logits are; but where one is NaN or +∞ or none is above −∞, no softmax
/// has an answer, and the token's weights are NaN, which sampling reports.
///
/// Grid: [`moe_route_blocks`]. Requires: n_used ≤ n_experts; no more than [`MAX_USED`] and [`MAX_EXPERTS`] of them.
/// Fast because: a token's logits stay in its warp's registers; a round of the choice is five exchanges.
#[kernel(threads = ROUTE_THREADS, pdl)]
pub fn moe_route_f32(
    experts: Out<u32>,
    weights: Out<f32>,
    logits: In<f32>,
    n_tokens: u32,
    n_experts: u32,
    n_used: u32,
    over_all: u32,
) {
    pdl::launch_dependents();
    pdl::wait();
    let token = thread::block_idx_x() * (ROUTE_THREADS / warp::SIZE) + warp::warp_id();
    if token >= n_tokens {
        return;
    }
    let lane = warp::lane_id();
    let mut own = [f32::NEG_INFINITY; LANE_EXPERTS];
    let mut is_nan = false;
    let mut i = 0;
    while i < LANE_EXPERTS {
        let expert = i as u32 * warp::SIZE + lane;
        if expert < n_experts {
            let logit = logits.get((token * n_experts + expert) as usize);
            is_nan |= logit.is_nan();
            own[i] = if logit.is_nan() { f32::NEG_INFINITY } else { logit };
        }
        i += 1;
    }

    // Lane j keeps what round j chooses.
    let mut chosen = Candidate::NONE;
    let mut max = f32::NEG_INFINITY;
    let mut taken = 0u32;
    let mut round = 0;
    while round < n_used {
        let best = Candidate::best_of(&own, taken, n_experts).join_warp();
        if best.expert % warp::SIZE == lane {
            taken |= 1 << (best.expert / warp::SIZE);
        }
        if round == lane {
            chosen = best;
        }
        max = if round == 0 { best.logit } else { max };
        round += 1;
    }

    let mut terms = 0.0;
    if over_all != 0 {
        let mut i = 0;
        while i < LANE_EXPERTS {
            terms += math::exp(own[i] - max); // nothing where there is no expert
            i += 1;
        }
    } else if lane < n_used {
        terms = math::exp(chosen.logit - max);
    }
    let sum = warp::sum_f32(terms);
    let has_answer = !warp::any(is_nan) && max.is_finite();
    if lane < n_used {
        let assignment = (token * n_used + lane) as usize;
        let share = math::div(math::exp(chosen.logit - max), sum);
        experts.set(assignment, chosen.expert);
        weights.set(assignment, if has_answer { share } else { f32::NAN });
    }
}

/// An expert that may be chosen.
#[derive(Clone, Copy)]
struct Candidate {
    logit: f32,
    expert: u32,
}

impl Candidate {
    /// Worse than any expert.
    const NONE: Self = Self { logit: f32::NEG_INFINITY, expert: u32::MAX };

    /// The lane's best, except those whose bit is set in `taken`.
    #[inline(always)]
    fn best_of(own: &[f32; LANE_EXPERTS], taken: u32, n_experts: u32) -> Self {
        let mut best = Self::NONE;
        let mut i = 0;
        while i < LANE_EXPERTS {
            let expert = i as u32 * warp::SIZE + warp::lane_id();
            if expert < n_experts && taken >> i & 1 == 0 {
                best.join(Self { logit: own[i], expert });
            }
            i += 1;
        }
        best
    }

    #[inline(always)]
    fn join(&mut self, other: Self) {
        if other.logit > self.logit || (other.logit == self.logit && other.expert < self.expert) {
            *self = other;
        }
    }

    /// The warp's best, in every lane.
    #[inline(always)]
    fn join_warp(mut self) -> Self {
        let mut offset = 16;
        while offset > 0 {
            self.join(Self {
                logit: warp::shuffle_xor(self.logit, offset),
                expert: warp::shuffle_xor(self.expert, offset),
            });
            offset /= 2;
        }
        self
    }
}

/// Threads of a block of [`moe_group`].
pub const GROUP_THREADS: u32 = 512;
const GROUP_WARPS: usize = (GROUP_THREADS / warp::SIZE) as usize;

/// Groups assignments by expert: those of expert e get the places `offsets[e]` to `offsets[e + 1] − 1`, in their order.
/// `rows[p]` = the assignment at place p, `places[a]` = the place of assignment a, `row_experts[p]` = its expert.
///
/// `offsets [n_experts + 1]`; `rows`, `places`, `row_experts` and `experts [n_assigned]`, the latter as
/// [`moe_route_f32`] writes it.
///
/// Grid: n_experts blocks; each finds its expert's assignments, a warp an equal stretch of the list.
/// Requires: every expert below n_experts.
/// Fast because: blocks need nothing of each other: one launch, and the list is in the L2 cache after the first; a warp
/// ranks 32 assignments with one ballot; one barrier in all.
#[kernel(threads = GROUP_THREADS, shared = 2 * shared::tile_bytes::<u32>(GROUP_WARPS), pdl)]
pub fn moe_group(
    offsets: Out<u32>,
    rows: Out<u32>,
    places: Out<u32>,
    row_experts: Out<u32>,
    experts: In<u32>,
    n_assigned: u32,
) {
    let mut shared = Shared::new();
    let n_lower = shared.tile::<u32>(GROUP_WARPS);
    let n_equal = shared.tile::<u32>(GROUP_WARPS);
    let expert = thread::block_idx_x();
    let (warp, lane) = (warp::warp_id(), warp::lane_id());
    let stretch = n_assigned.div_ceil(GROUP_THREADS) * warp::SIZE;
    let start = warp * stretch;
    let end = if start + stretch < n_assigned { start + stretch } else { n_assigned };
    pdl::launch_dependents();
    pdl::wait();

    let (mut lower, mut equal) = (0, 0);
    let mut a = start + lane;
    while a < end {
        let other = experts.get(a as usize);
        lower += (other < expert) as u32;
        equal += (other == expert) as u32;
        a += warp::SIZE;
    }
    let (lower, equal) = (sum_warp(lower), sum_warp(equal));
    if lane == 0 {
        n_lower.set(warp as usize, lower);
        n_equal.set(warp as usize, equal);
    }
    thread::sync_threads();

    // Before this warp's first: all of lower experts, and those of this one in the stretches before.
    let mut before = 0;
    if (lane as usize) < GROUP_WARPS {
        before = n_lower.get(lane as usize);
        if lane < warp {
            before += n_equal.get(lane as usize);
        }
    }
    let mut next = sum_warp(before);
    if thread::thread_idx_x() == 0 {
        offsets.set(expert as usize, next);
        if expert + 1 == thread::grid_dim_x() {
            offsets.set(expert as usize + 1, n_assigned);
        }
    }
    let mut first = start;
    while first < end {
        let a = first + lane;
        let is_mine = a < end && experts.get(a as usize) == expert;
        let mine = warp::ballot(is_mine);
        if is_mine {
            let place = next + (mine & ((1 << lane) - 1)).count_ones();
            rows.set(place as usize, a);
            row_experts.set(place as usize, expert);
            places.set(a as usize, place);
        }
        next += mine.count_ones();
        first += warp::SIZE;
    }
}

/// The sum over the warp, in every lane.
#[inline(always)]
fn sum_warp(mut value: u32) -> u32 {
    let mut offset = 16;
    while offset > 0 {
        value += warp::shuffle_xor(value, offset);
        offset /= 2;
    }
    value
}

/// Threads of a block of the kernels that move rows; one thread has four elements of a row.
pub const ROW_THREADS: u32 = 128;

/// The first of a thread's four elements of its row.
#[inline(always)]
fn first_element() -> usize {
    (thread::block_idx_y() * ROW_THREADS + thread::thread_idx_x()) as usize * 4
}

/// `y[p]` = row `rows[p] / n_used` of x: each token's row at the places of its assignments.
///
/// `y [n_assigned, dim]`, `x [n_tokens, dim]`, `rows [n_assigned]` as [`moe_group`] writes it.
///
/// Grid: n_assigned × [`moe_row_blocks`]. Requires: nothing of `dim`; a multiple of 4 takes the wide path.
/// Fast because: 16-byte loads and stores, and a row is read from memory once: its further readers find it in L2.
#[kernel(threads = ROW_THREADS, pdl)]
pub fn moe_gather_f32(y: Out<f32>, x: In<f32>, rows: In<u32>, n_used: u32, dim: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let (place, dim, first) = (thread::block_idx_x() as usize, dim as usize, first_element());
    let from = (rows.get(place) / n_used) as usize * dim;
    let to = place * dim;
    if dim.is_multiple_of(4) {
        if first < dim {
            y.store::<4>(to + first, x.load::<4>(from + first));
        }
    } else {
        let mut i = first;
        while i < dim && i < first + 4 {
            y.set(to + i, x.get(from + i));
            i += 1;
        }
    }
}

/// `y[r] += bias[experts[r]]`: to each row the bias of its expert.
///
/// `y [n_rows, dim]`, `bias [n_experts, dim]`, `experts [n_rows]`: `row_experts` of [`moe_group`] for rows in grouped
/// order, `experts` of [`moe_route_f32`] for rows in the order of assignments.
///
/// Grid: n_rows × [`moe_row_blocks`]. Requires: nothing of `dim`; a multiple of 4 takes the wide path.
/// Fast because: 16-byte loads and stores.
#[kernel(threads = ROW_THREADS, pdl)]
pub fn moe_bias_f32(y: InOut<f32>, bias: In<f32>, experts: In<u32>, dim: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let (row, dim, first) = (thread::block_idx_x() as usize, dim as usize, first_element());
    let from = experts.get(row) as usize * dim;
    let to = row * dim;
    if dim.is_multiple_of(4) {
        if first < dim {
            let (a, b) = (y.load::<4>(to + first), bias.load::<4>(from + first));
            y.store::<4>(to + first, [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]);
        }
    } else {
        let mut i = first;
        while i < dim && i < first + 4 {
            y.set(to + i, y.get(to + i) + bias.get(from + i));
            i += 1;
        }
    }
}

/// `y[t] = Σ_j weights[t, j] · x[places[t, j]]`, j upwards: the experts' results, weighed, back in the order of tokens.
///
/// `y [n_tokens, dim]`, `x [n_assigned, dim]` in grouped order, `places [n_tokens, n_used]` as [`moe_group`] writes it,
/// `weights [n_tokens, n_used]`.
///
/// Grid: n_tokens × [`moe_row_blocks`]. Requires: n_used ≤ [`MAX_USED`]; nothing of `dim`, a multiple of 4 takes the wide
/// path. Fast because: every row is read once, 16 bytes at a time, and the rows of a token are in flight four at a time.
#[kernel(threads = ROW_THREADS, pdl)]
pub fn moe_combine_f32(y: Out<f32>, x: In<f32>, places: In<u32>, weights: In<f32>, n_used: u32, dim: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let (token, dim, first) = (thread::block_idx_x(), dim as usize, first_element());
    if first >= dim {
        return;
    }
    let mut from = [0; MAX_USED];
    let mut share = [0.0; MAX_USED];
    let mut j = 0;
    while j < MAX_USED {
        if (j as u32) < n_used {
            let assignment = (token * n_used) as usize + j;
            from[j] = places.get(assignment) as usize * dim + first;
            share[j] = weights.get(assignment);
        }
        j += 1;
    }
    let to = token as usize * dim + first;
    if dim.is_multiple_of(4) {
        let mut values = [[0.0; 4]; MAX_USED];
        let mut j = 0;
        while j < MAX_USED {
            if (j as u32) < n_used {
                values[j] = x.load::<4>(from[j]);
            }
            j += 1;
        }
        let mut sums = [0.0; 4];
        let mut j = 0;
        while j < MAX_USED {
            sums[0] = math::fma(share[j], values[j][0], sums[0]);
            sums[1] = math::fma(share[j], values[j][1], sums[1]);
            sums[2] = math::fma(share[j], values[j][2], sums[2]);
            sums[3] = math::fma(share[j], values[j][3], sums[3]);
            j += 1;
        }
        y.store::<4>(to, sums);
    } else {
        let mut i = 0;
        while i < 4 && first + i < dim {
            let mut sum = 0.0;
            let mut j = 0;
            while j < MAX_USED {
                if (j as u32) < n_used {
                    sum = math::fma(share[j], x.get(from[j] + i), sum);
                }
                j += 1;
            }
            y.set(to + i, sum);
            i += 1;
        }
    }
}

/// Blocks of a launch of [`moe_route_f32`].
pub const fn moe_route_blocks(n_tokens: usize) -> usize {
    n_tokens.div_ceil((ROUTE_THREADS / warp::SIZE) as usize)
}

/// Blocks in y of a launch over rows of `dim` elements.
pub const fn moe_row_blocks(dim: usize) -> usize {
    dim.div_ceil(4 * ROW_THREADS as usize)
}

/// Bytes that [`moe_route_f32`] must move: logits read, experts and weights written.
pub const fn moe_route_bytes(n_tokens: usize, n_experts: usize, n_used: usize) -> usize {
    4 * n_tokens * (n_experts + 2 * n_used)
}

/// Bytes that [`moe_group`] must move: the experts read once, its four lists written. (Its blocks read the experts twice
/// each, from the L2 cache.)
pub const fn moe_group_bytes(n_assigned: usize, n_experts: usize) -> usize {
    4 * (4 * n_assigned + n_experts + 1)
}

/// Bytes that [`moe_gather_f32`] must move: each token's row read once, its copies written.
pub const fn moe_gather_bytes(n_tokens: usize, n_used: usize, dim: usize) -> usize {
    4 * n_tokens * (dim * (1 + n_used) + n_used)
}

/// Bytes that [`moe_bias_f32`] must move: y read and written, the biases of up to `n_experts` experts read once.
pub const fn moe_bias_bytes(n_rows: usize, n_experts: usize, dim: usize) -> usize {
    let n_biases = if n_rows < n_experts { n_rows } else { n_experts };
    4 * (dim * (2 * n_rows + n_biases) + n_rows)
}

/// Bytes that [`moe_combine_f32`] must move: the experts' rows read, the tokens' written.
pub const fn moe_combine_bytes(n_tokens: usize, n_used: usize, dim: usize) -> usize {
    4 * n_tokens * (dim * (1 + n_used) + 2 * n_used)
}
