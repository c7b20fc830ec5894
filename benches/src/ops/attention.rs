//! What all attentions share: shapes, caches, the check, and the vendor's two products.

use kernels_gpu::launch::{DeviceBuffer, DeviceSlice};
use kernels_gpu::simt::f16;
use oxwarp::cuda::Cuda;
use testkit::reference;

use crate::case::{Check, Peer};
use crate::data::{Number, read, sample};
use crate::error::Result;
use crate::lab::{Lab, Sets};
use crate::torch::Attention;
use crate::vendor::{Product, Shape};

/// Tokens and heads of which the results are compared.
const CHECKED_TOKENS: usize = 4;
const CHECKED_HEADS: usize = 2;

/// Keys, values and positions; the tokens are the cache's last ones.
pub struct Cache {
    pub shape: Attention,
    pub n_sets: usize,
    pub k: Sets<f16>,
    pub v: Sets<f16>,
    pub positions: DeviceBuffer<u32>,
}

/// A shape as the results name it.
pub fn name(shape: Attention) -> String {
    let Attention { n_heads, n_kv_heads, head_dim, n_tokens, n_keys } = shape;
    if n_tokens == n_keys {
        format!("{n_heads}/{n_kv_heads}x{head_dim} {n_tokens}")
    } else {
        format!("{n_heads}/{n_kv_heads}x{head_dim} {n_tokens}+{}", n_keys - n_tokens)
    }
}

/// Elements of a set of queries, or of results.
pub fn n_queries(shape: Attention) -> usize {
    shape.n_tokens * shape.n_heads * shape.head_dim
}

pub fn scale(shape: Attention) -> f32 {
    1.0 / (shape.head_dim as f32).sqrt()
}

impl Cache {
    pub fn new(lab: &Lab, shape: Attention) -> Result<Self> {
        let Attention { n_kv_heads, head_dim, n_tokens, n_keys, .. } = shape;
        let n = n_kv_heads * n_keys * head_dim;
        let n_sets = lab.n_sets(2 * 2 * n);
        let positions: Vec<u32> = (n_keys - n_tokens..n_keys).map(|p| p as u32).collect();
        let (k, v) = (lab.normal(n_sets, n)?, lab.normal(n_sets, n)?);
        Ok(Cache { shape, n_sets, k, v, positions: lab.upload(&positions)? })
    }

    pub fn size_bytes(&self) -> u64 {
        self.k.size_bytes() + self.v.size_bytes()
    }

    /// Compares results on set 0 with the reference, a head at a time.
    pub fn check<Y: Number, Q: Number>(
        &self,
        device: &Cuda,
        y: &DeviceSlice<Y>,
        q: &DeviceSlice<Q>,
        allowed: f64,
    ) -> Result<Check> {
        let Attention { n_heads, n_kv_heads, head_dim, n_tokens, n_keys } = self.shape;
        let shape = reference::Attention {
            n_heads: 1,
            n_kv_heads: 1,
            head_dim,
            n_ctx: n_keys,
            scale: f64::from(scale(self.shape)),
        };
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for head in sample(CHECKED_HEADS, n_heads) {
            let start = head * n_kv_heads / n_heads * n_keys * head_dim;
            let of_head =
                |cache: &Sets<f16>| read(device, cache.get(0).slice(start..start + n_keys * head_dim));
            let (k, v) = (of_head(&self.k)?, of_head(&self.v)?);
            for token in sample(CHECKED_TOKENS, n_tokens) {
                let at = (token * n_heads + head) * head_dim;
                let q = read(device, q.slice(at..at + head_dim))?;
                let mut exact = vec![0.0; head_dim];
                let position = (n_keys - n_tokens + token) as u32;
                reference::attention(&mut exact, &q, &k, &v, &[position], shape);
                expected.extend(exact);
                found.extend(read(device, y.slice(at..at + head_dim))?.into_iter().map(|y| y as f32));
            }
        }
        Ok(Check::of(&found, &expected, allowed))
    }
}

/// Attention by the vendor's library: scores = q · Kᵀ, y = scores · V, each a product for all heads at once. It does not
/// know a causal mask, so it multiplies every query with every key; and the softmax between is left out.
pub struct Composition {
    q: Sets<f16>,
    scores: Sets<f16>,
    y: Sets<f16>,
}

impl Composition {
    pub fn new(lab: &Lab, cache: &Cache) -> Result<Self> {
        let n = n_queries(cache.shape);
        Ok(Composition {
            q: lab.normal(cache.n_sets, n)?,
            scores: lab.zeros(1, cache.shape.n_heads * cache.shape.n_tokens * cache.shape.n_keys)?,
            y: lab.zeros(1, n)?,
        })
    }

    pub fn peer(&mut self, cache: &Cache) -> Peer {
        let Attention { n_heads, n_kv_heads, head_dim, n_tokens, n_keys } = cache.shape;
        // Heads that share keys are more rows of queries.
        let n_queries = n_tokens * (n_heads / n_kv_heads);
        let scores = Shape {
            n_tokens: n_queries,
            n_rows: n_keys,
            n_cols: head_dim,
            w_by_cols: false,
            n_batches: n_kv_heads,
        };
        let sums = Shape { n_rows: head_dim, n_cols: n_keys, w_by_cols: true, ..scores };
        let products = |set| {
            let first = Product::batched(self.scores.get_mut(0), cache.k.get(set), self.q.get(set), scores);
            vec![first, Product::batched(self.y.get_mut(0), cache.v.get(set), self.scores.get(0), sums)]
        };
        Peer {
            sets: (0..cache.n_sets).map(products).collect(),
            note: Some("cuBLAS: two products over all keys, no mask, no softmax"),
            same_results: false,
        }
    }
}
