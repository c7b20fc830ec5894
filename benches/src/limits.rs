//! What the machine can do at most, measured in the same run.

use kernels_gpu::gemm_wgmma::plan::{Plan, Shape};
use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::read::{read_bytes, read_u32};
use kernels_gpu::simt::bf16;
use oxwarp::cuda::Version;
use serde::{Deserialize, Serialize};

use crate::case::{Traffic, Work};
use crate::error::Result;
use crate::lab::Lab;
use crate::measure::{Pace, time};
use crate::race::best_algorithm;
use crate::vendor::{Product, Vendor};

/// The limits, and how each was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes read in a second, in 10⁹.
    pub read_gb_s: f64,
    pub read_by: String,
    /// Bytes read and bytes written in a second, in 10⁹.
    pub copy_gb_s: f64,
    pub copy_by: String,
    /// The best product of matrices, in 10¹² operations a second.
    /// Nothing is bound by it where it is not known.
    pub matmul_tflop_s: Option<f64>,
    pub matmul_by: String,
}

impl Limits {
    /// The shortest time that these limits allow.
    pub fn least_us(&self, work: Work) -> f64 {
        let gb_s = match work.traffic {
            Traffic::Reads => self.read_gb_s,
            Traffic::Writes => self.copy_gb_s,
        };
        (work.bytes as f64 / (gb_s * 1e3))
            .max(self.matmul_tflop_s.map_or(0.0, |tflop_s| work.flops as f64 / (tflop_s * 1e6)))
    }
}

/// Measures them; some seconds.
///
/// # Errors
/// Those of the device.
pub fn measure(lab: &Lab, pace: Pace) -> Result<Limits> {
    let (read_gb_s, read_by) = read(lab, pace)?;
    let copy_gb_s = copy(lab, pace)?;
    let (matmul_tflop_s, matmul_by) = matmul(lab, pace)?;
    Ok(Limits { read_gb_s, read_by, copy_gb_s, copy_by: "cuMemcpyDtoD".into(), matmul_tflop_s, matmul_by })
}

/// One buffer is enough: it is many times the cache.
const BYTES: usize = 1 << 30;

fn read(lab: &Lab, pace: Pace) -> Result<(f64, String)> {
    const BLOCKS_PER_MULTIPROCESSOR: [usize; 3] = [2, 3, 4];
    let x = lab.normal::<f32>(1, BYTES / 4)?;
    let mut best = (0.0, String::new());
    for per_multiprocessor in BLOCKS_PER_MULTIPROCESSOR {
        let n_blocks = per_multiprocessor * lab.n_multiprocessors();
        let mut y = lab.zeros::<u32>(1, n_blocks * kernels_gpu::read::THREADS as usize)?;
        let mut queue = |_| {
            let kernel = read_u32 { y: y.get_mut(0), x: x.get(0).cast(), n: (BYTES / 4) as u32 };
            Ok(lab.device.launch(kernel, Grid::x(n_blocks as u32))?)
        };
        let stats = time(&lab.device, &mut queue, 1, pace)?;
        let gb_s = read_bytes(BYTES / 4, n_blocks) as f64 / stats.median_us / 1e3;
        if gb_s > best.0 {
            best =
                (gb_s, format!("kernel read_u32 over 1 GiB, {per_multiprocessor} blocks a multiprocessor"));
        }
    }
    Ok(best)
}

fn copy(lab: &Lab, pace: Pace) -> Result<f64> {
    let x = lab.normal::<f32>(1, BYTES / 4)?;
    let mut y = lab.zeros::<f32>(1, BYTES / 4)?;
    let stats = time(&lab.device, &mut |_| Ok(lab.device.copy_within(y.get_mut(0), x.get(0))?), 1, pace)?;
    Ok(2.0 * BYTES as f64 / stats.median_us / 1e3)
}

/// Tokens, rows and columns of the product that is the limit.
const N: usize = 8192;

/// The library's best, or this project's where there is none.
fn matmul(lab: &Lab, pace: Pace) -> Result<(Option<f64>, String)> {
    let tflop_s = |us: f64| Some(2.0 * (N as f64).powi(3) / us / 1e6);
    let why = match &lab.vendor {
        Err(_) => "no vendor's library".to_string(),
        Ok(vendor) => match vendors_us(lab, vendor, pace) {
            Ok(us) => return Ok((tflop_s(us), format!("{}, bf16 {N} x {N} x {N}", vendor.name))),
            Err(error) => error.to_string(),
        },
    };
    if lab.device.info().capability != Version::new(9, 0) {
        return Ok((None, format!("not measured: {why}, and no kernel for this GPU")));
    }
    Ok((tflop_s(our_us(lab, pace)?), format!("kernel gemm_wgmma, bf16 {N} x {N} x {N}; {why}")))
}

fn vendors_us(lab: &Lab, vendor: &Vendor, pace: Pace) -> Result<f64> {
    let (w, x) = (lab.normal::<bf16>(1, N * N)?, lab.normal::<bf16>(1, N * N)?);
    let mut y = lab.zeros::<bf16>(1, N * N)?;
    let product = Product::new(y.get_mut(0), w.get(0), x.get(0), [N, N, N]);
    let prepared = vendor.prepare(&product)?;
    // SAFETY: the operands are the buffers above.
    let (algorithm, _) = unsafe { best_algorithm(&lab.device, vendor, &[product]) }?;
    // SAFETY: as above.
    let mut queue = |_| unsafe { prepared.queue(&product, &algorithm) };
    Ok(time(&lab.device, &mut queue, 1, pace)?.median_us)
}

fn our_us(lab: &Lab, pace: Pace) -> Result<f64> {
    let (w, x) = (lab.normal::<bf16>(1, N * N)?, lab.normal::<bf16>(1, N * N)?);
    let mut y = lab.zeros::<bf16>(1, N * N)?;
    let plan = Plan::new(Shape { n_tokens: N, n_rows: N, n_cols: N }, lab.device.info().n_multiprocessors);
    let mut queue = |_| Ok(plan.launch_bf16(&lab.device, y.get_mut(0), w.get(0), x.get(0))?);
    Ok(time(&lab.device, &mut queue, 1, pace)?.median_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_memory_and_products_bounds() {
        let limits = Limits {
            read_gb_s: 3000.0,
            read_by: String::new(),
            copy_gb_s: 2000.0,
            copy_by: String::new(),
            matmul_tflop_s: Some(600.0),
            matmul_by: String::new(),
        };
        assert_eq!(limits.least_us(Work::reading(3_000_000, 0)), 1.0);
        assert_eq!(limits.least_us(Work::copying(3_000_000, 0)), 1.5);
        assert_eq!(limits.least_us(Work::reading(3_000_000, 1_200_000_000)), 2.0);
    }
}
