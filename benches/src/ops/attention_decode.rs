//! `attention_decode`: one token over a long context, parts and merge, which also converts its row for a product.

use kernels_gpu::attention_decode::{
    attention_decode_bytes, attention_decode_f16, attention_decode_flops, attention_merge_f32_converted,
};
use kernels_gpu::attention_decode_mma::{self, *};
use kernels_gpu::gemv::XOrder;
use kernels_gpu::launch::{Device, Grid};
use oxwarp::cuda::{Cuda, Error};

use super::attention::{self, Cache, Composition};
use super::converted::{Converted, Place};
use crate::case::{Case, Check, Peer, Subject, Work, allowed};
use crate::error::Result;
use crate::lab::{Lab, Sets};
use crate::torch::Attention;

/// Query heads, heads of keys, elements of a head: groups of four and of seven, and heads with keys of their own.
const SHAPES: [[usize; 3]; 3] = [[32, 8, 128], [14, 2, 64], [32, 32, 96]];
const CONTEXTS: [usize; 4] = [512, 4096, 32_768, 131_072];

/// How the keys are dealt to blocks, and by which kernel.
#[derive(Clone, Copy)]
enum Plan {
    /// On the tensor cores, with the back end's number of parts times the first over the second.
    Mma(usize, usize),
    /// By the kernel for heads of any size.
    Simple,
}

pub fn cases() -> Vec<Case> {
    SHAPES.into_iter().flat_map(|shape| CONTEXTS.map(|n_keys| of_shape(shape, n_keys))).flatten().collect()
}

/// The back end's plan, then others.
fn of_shape([n_heads, n_kv_heads, head_dim]: [usize; 3], n_keys: usize) -> [Case; 4] {
    let shape = Attention { n_heads, n_kv_heads, head_dim, n_tokens: 1, n_keys };
    let case = |choice: &str, plan: Plan| {
        let bytes = attention_decode_bytes(n_keys, n_kv_heads, head_dim);
        let work = Work::reading(bytes, attention_decode_flops(n_keys, n_heads, head_dim));
        let make = move |lab: &Lab| Decode::new(lab, shape, plan);
        Case::new("attention_decode", format!("{}{choice}", attention::name(shape)), work, make)
    };
    [
        case("", Plan::Mma(1, 1)).attention(shape),
        case(" half-splits", Plan::Mma(1, 2)).variant(),
        case(" double-splits", Plan::Mma(2, 1)).variant(),
        case(" simple", Plan::Simple).variant(),
    ]
}

impl Plan {
    fn n_splits(self, n_multiprocessors: usize, shape: Attention) -> usize {
        let Attention { n_heads, n_kv_heads, n_keys, .. } = shape;
        match self {
            Plan::Mma(times, over) => {
                let n = attention_decode_mma::n_splits(n_multiprocessors, n_kv_heads, 1, n_keys);
                (n * times / over).max(1)
            }
            // As the back end has it: two blocks a multiprocessor, at least 64 keys each.
            Plan::Simple => (2 * n_multiprocessors).div_ceil(n_heads).min(n_keys.div_ceil(64)),
        }
    }
}

struct Decode {
    cache: Cache,
    plan: Plan,
    n_splits: usize,
    q: Sets<f32>,
    y: Sets<f32>,
    part_out: Sets<f32>,
    part_ml: Sets<f32>,
    converted: Converted,
    peer: Composition,
}

impl Decode {
    fn new(lab: &Lab, shape: Attention, plan: Plan) -> Result<Self> {
        let cache = Cache::new(lab, shape)?;
        let n = attention::n_queries(shape);
        let n_splits = plan.n_splits(lab.n_multiprocessors(), shape);
        Ok(Decode {
            plan,
            n_splits,
            q: lab.normal(cache.n_sets, n)?,
            y: lab.zeros(cache.n_sets, n)?,
            part_out: lab.zeros(1, n * n_splits)?,
            part_ml: lab.zeros(1, shape.n_heads * n_splits * 2)?,
            converted: Converted::new(lab, XOrder::Fixed, 1, n)?,
            peer: Composition::new(lab, &cache)?,
            cache,
        })
    }
}

impl Subject for Decode {
    fn n_sets(&self) -> usize {
        self.cache.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.cache.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let Attention { n_heads, n_kv_heads, head_dim, n_keys, .. } = self.cache.shape;
        let [n_heads, n_kv_heads, head_dim] = [n_heads, n_kv_heads, head_dim].map(|n| n as u32);
        let n_splits = self.n_splits as u32;
        macro_rules! launch {
            ($kernel:ident, $n_heads:ident $(, $field:ident)*) => {
                device.launch(
                    $kernel {
                        part_out: self.part_out.get_mut(0),
                        part_ml: self.part_ml.get_mut(0),
                        q: self.q.get(set),
                        k_cache: self.cache.k.get(set),
                        v_cache: self.cache.v.get(set),
                        positions: &self.cache.positions,
                        n_heads,
                        n_kv_heads,
                        $($field,)*
                        n_ctx: n_keys as u32,
                        scale: attention::scale(self.cache.shape),
                        window: n_keys as u32,
                    },
                    Grid::xyz($n_heads, n_splits, 1),
                )
            };
        }
        match (self.plan, head_dim) {
            (Plan::Simple, _) => launch!(attention_decode_f16, n_heads, head_dim),
            (_, 64) => launch!(attention_decode_mma_f16_d64, n_kv_heads),
            (_, 96) => launch!(attention_decode_mma_f16_d96, n_kv_heads),
            (_, 128) => launch!(attention_decode_mma_f16_d128, n_kv_heads),
            _ => unreachable!("a shape with heads of {head_dim}"),
        }?;
        let Place { words, numbers, order } = self.converted.place(0);
        let merge = attention_merge_f32_converted {
            y: self.y.get_mut(set),
            words,
            numbers,
            part_out: self.part_out.get(0),
            part_ml: self.part_ml.get(0),
            n_heads,
            n_splits,
            head_dim,
            order,
        };
        device.launch(merge, Grid::xy(n_heads, 1))
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        self.cache.check(device, self.y.get(0), self.q.get(0), allowed::ATTENTION_F32)
    }

    fn peer(&mut self) -> Option<Peer> {
        Some(self.peer.peer(&self.cache))
    }
}
