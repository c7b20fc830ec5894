//! What can end a benchmark.

use std::path::PathBuf;

/// Why something was not measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Gpu(#[from] oxwarp::cuda::Error),
    /// A call of the vendor's library.
    #[error("{call} failed with status {status}")]
    Vendor { call: &'static str, status: i32 },
    /// The vendor's library has no algorithm for a product.
    #[error("no algorithm for {product}")]
    NoAlgorithm { product: String },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
