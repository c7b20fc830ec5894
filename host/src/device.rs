//! Which device computes: what `--device` means, and what happens where there is no such device.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use kernels_gpu::simt::emulator::Emulator;

use crate::backend::cpu::{Cpu, CpuOptions};
use crate::backend::gpu::{Gpu, GpuOptions};
use crate::cuda::{self, Cuda};
use crate::gguf::{Gguf, MappedFile};
use crate::model::{self, Engine, EngineOptions, LoadProgress, Runner};

/// What is asked for: `auto`, `cpu`, `cuda`, `cuda:N` or `emulator`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if it can be used, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// The GPU of this number; `cuda` alone is number 0.
    Cuda(u32),
    /// The kernels of the GPU, run by the CPU: slow, for tests.
    Emulator,
}

/// A word that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no device; allowed: auto, cpu, cuda, cuda:N (N a number), emulator")]
pub struct UnknownDevice {
    pub found: String,
}

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(word: &str) -> Result<Self, UnknownDevice> {
        let unknown = || UnknownDevice { found: word.to_owned() };
        match word {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            "emulator" => Ok(DeviceChoice::Emulator),
            _ => {
                let number = word.strip_prefix("cuda:").ok_or_else(unknown)?;
                // `parse` would take a sign.
                let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
                let index = number.parse().ok().filter(|_| is_number).ok_or_else(unknown)?;
                Ok(DeviceChoice::Cuda(index))
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(index) => write!(f, "cuda:{index}"),
            DeviceChoice::Emulator => f.write_str("emulator"),
        }
    }
}

/// How to use whichever device it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceOptions {
    pub cpu: CpuOptions,
    pub gpu: GpuOptions,
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("--device {choice}: {source}")]
    Cuda { choice: DeviceChoice, source: cuda::Error },
    #[error(transparent)]
    Backend(#[from] crate::backend::Error),
}

/// A device that is ready for a model.
pub struct Device {
    kind: Kind,
    notice: Option<String>,
}

enum Kind {
    Cpu(Cpu),
    Cuda(Box<Gpu<Cuda>>),
    Emulator(Box<Gpu<Emulator>>),
}

impl Device {
    /// Opens the device asked for.
    ///
    /// # Errors
    /// A GPU that is asked for expressly and cannot be used; options that the CPU refuses.
    pub fn open(choice: DeviceChoice, options: DeviceOptions) -> Result<Self, Error> {
        let mut notice = None;
        let kind = match choice {
            DeviceChoice::Cpu => Kind::Cpu(Cpu::new(options.cpu)?),
            DeviceChoice::Emulator => Kind::Emulator(Box::new(Gpu::new(Emulator::fast(), options.gpu)?)),
            DeviceChoice::Cuda(index) => {
                let gpu = Cuda::open(index).map_err(|source| Error::Cuda { choice, source })?;
                Kind::Cuda(Box::new(Gpu::new(gpu, options.gpu)?))
            }
            DeviceChoice::Auto => match Cuda::open(0) {
                Ok(gpu) => Kind::Cuda(Box::new(Gpu::new(gpu, options.gpu)?)),
                Err(error) => {
                    notice = Some(fallback_notice(&error));
                    Kind::Cpu(Cpu::new(options.cpu)?)
                }
            },
        };
        Ok(Device { kind, notice })
    }

    /// Why it is the CPU, where nobody has asked for the CPU; one line.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// Tokens of a prompt to compute at once: enough for matrix products at full speed, few enough for a generation to be
    /// cancelled between two batches within a fraction of a second. None where the back end knows best.
    pub fn n_batch(&self) -> Option<usize> {
        match self.kind {
            Kind::Cpu(_) | Kind::Emulator(_) => Some(64),
            Kind::Cuda(_) => None,
        }
    }

    /// Loads the model of `gguf`, which was parsed from `file`.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load(
        self,
        file: Arc<MappedFile>,
        gguf: &Gguf<'_>,
        options: EngineOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Box<dyn Runner>, model::Error> {
        Ok(match self.kind {
            Kind::Cpu(cpu) => Box::new(Engine::load(cpu, file, gguf, options, progress)?),
            Kind::Cuda(gpu) => Box::new(Engine::load(*gpu, file, gguf, options, progress)?),
            Kind::Emulator(gpu) => Box::new(Engine::load(*gpu, file, gguf, options, progress)?),
        })
    }
}

fn fallback_notice(error: &cuda::Error) -> String {
    let why = error.to_string();
    format!("computing on the CPU: {}", why.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_is_read_as_it_is_written() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(3), DeviceChoice::Emulator] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
    }

    #[test]
    fn words_that_name_no_device_are_refused() {
        for word in ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:+1", "cuda:4294967296", "cuda:x", "cpu "] {
            let error = word.parse::<DeviceChoice>().expect_err(word);
            assert_eq!(
                error.to_string(),
                format!("{word:?} is no device; allowed: auto, cpu, cuda, cuda:N (N a number), emulator")
            );
        }
    }

    #[test]
    fn a_notice_is_one_line_that_says_why() {
        let error = cuda::Error::NoDriver { why: "libcuda.so.1: not found".into() };
        assert_eq!(
            fallback_notice(&error),
            "computing on the CPU: no NVIDIA driver (libcuda.so.1: not found)"
        );
        let source = cuda::CallError { call: "cuModuleLoadDataEx", code: 218, name: "INVALID_PTX".into() };
        let error = cuda::Error::BadModule { target: "sm_80", source, log: "line 1\nline 2".into() };
        assert_eq!(fallback_notice(&error).lines().count(), 1);
    }

    #[test]
    fn without_a_gpu_the_default_is_the_cpu_and_a_forced_gpu_is_an_error() {
        // A number that no machine has a GPU for: refused with and without a driver.
        let choice = DeviceChoice::Cuda(4095);
        let error = Device::open(choice, DeviceOptions::default()).err().expect("nobody has 4096 GPUs");
        assert!(matches!(error, Error::Cuda { .. }), "{error}");
        assert!(error.to_string().starts_with("--device cuda:4095: "), "{error}");

        let device = Device::open(DeviceChoice::Auto, DeviceOptions::default()).unwrap();
        match device.kind {
            Kind::Cpu(_) => assert!(device.notice().is_some_and(|why| why.contains("CPU")), "a notice"),
            Kind::Cuda(_) => assert_eq!(device.notice(), None),
            Kind::Emulator(_) => panic!("nobody asked for the emulator"),
        }
    }
}
